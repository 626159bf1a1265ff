"""The losses equal those of their papers and of open_clip, with exact gradients, for tiles of any size."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from tests.pretrain.contrast.naive import LOSSES, NAIVE, draw, loss_and_gradients
from trichord.pretrain.contrast import exchange
from trichord.pretrain.contrast.losses import info_nce, nt_xent, sigmoid_loss

ALL = pytest.mark.parametrize("name", LOSSES)
FORMS = pytest.mark.parametrize("form", ["gathered", "ring"])


def same(found: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> None:
    """Compare losses and gradients, each relative to its largest value."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=limit, atol=limit * float(other.abs().max()))


@ALL
@FORMS
@pytest.mark.parametrize("absent", [[], [0], [2, 5, 6]])
def test_losses_equal_the_sums_over_pairs_of_their_papers(name: str, form: str, absent: list[int]) -> None:
    given = draw(name, 7, dtype=torch.float64)
    present = torch.tensor([sample not in absent for sample in range(7)])
    expected = loss_and_gradients(NAIVE[name](*given, present.tolist()), given)
    found = loss_and_gradients(LOSSES[name](*given, present if absent else None, form=form), given)
    same(found, expected, 1e-12)
    assert all(gradient.any() for gradient in found[1:])
    assert not found[1][absent].any() and not found[2][absent].any()


@ALL
@pytest.mark.parametrize("tile_bytes", [1, 8, 40, 100, 8 * 5, 8 * 35, 10**6])
def test_result_does_not_depend_on_the_tile_size(name: str, tile_bytes: int) -> None:
    given = draw(name, 11, dtype=torch.float64)
    present = torch.arange(11) % 4 != 1
    expected = loss_and_gradients(LOSSES[name](*given, present), given)
    same(loss_and_gradients(LOSSES[name](*given, present, tile_bytes=tile_bytes), given), expected, 1e-13)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_gradients_equal_finite_differences(name: str) -> None:
    given = draw(name, 5, dtype=torch.float64)
    present = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(lambda *tensors: LOSSES[name](*tensors, present, tile_bytes=48), given)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_info_nce_equals_open_clip(scale: float) -> None:
    given = draw("info_nce", 300, 32, scale)
    expected = loss_and_gradients(ClipLoss()(*given), given)
    same(loss_and_gradients(info_nce(*given, tile_bytes=4 * 70 * 70), given), expected, 1e-5)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_sigmoid_loss_equals_open_clip(scale: float) -> None:
    given = draw("sigmoid", 300, 32, scale)
    expected = loss_and_gradients(SigLipLoss()(*given), given)
    same(loss_and_gradients(sigmoid_loss(*given, tile_bytes=4 * 70 * 70), given), expected, 1e-5)


@ALL
@FORMS
def test_without_pairs_all_is_zero_and_absent_rows_do_not_matter(name: str, form: str) -> None:
    given = draw(name, 4)
    with torch.no_grad():
        for tensor in given[:2]:
            tensor[1], tensor[2] = torch.nan, torch.inf
    found = loss_and_gradients(LOSSES[name](*given, torch.zeros(4, dtype=torch.bool), form=form), given)
    assert not any(tensor.any() for tensor in found)
    present = torch.tensor([True, False, False, True])
    found = loss_and_gradients(LOSSES[name](*given, present, form=form), given)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in found)
    assert not found[1][1:3].any() and not found[2][1:3].any()


@pytest.mark.parametrize("cosine", [1.0, 0.3, 0.0, -0.3, -0.9, -1.0])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_no_overflow_or_underflow_at_the_largest_scale(name: str, cosine: float) -> None:
    a, b, _ = draw(name, 40, 8)
    with torch.no_grad():
        a[:] = a[0] + 1e-3 * a  # all rows of a side are equal, and those of the other side are at one angle to them
        aside = b - (b @ a[0])[:, None] / a[0].square().sum() * a[0]
        b[:] = cosine * a[0] / a[0].norm() + (1 - cosine**2) ** 0.5 * aside / aside.norm(dim=1, keepdim=True)
        a /= a.norm(dim=1, keepdim=True)
    given = (a, b, torch.tensor(100.0, requires_grad=True))
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = loss_and_gradients(NAIVE[name](*exact, [True] * 40), exact)
    found = loss_and_gradients(LOSSES[name](*given), given)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-5)  # a hundred times the rounding of float32


@ALL
def test_products_are_autocast_and_sums_are_not(name: str) -> None:
    given = draw(name, 400, 64)
    expected = loss_and_gradients(LOSSES[name](*given), given)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](*given)
    assert loss.dtype == torch.float32
    found = loss_and_gradients(loss, given)
    assert 0 < abs(float(found[0] - expected[0])) < 0.01 * float(expected[0])
    same(found, expected, 0.05)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in given[:2]] + list(given[2:])
    assert [tensor.dtype for tensor in loss_and_gradients(LOSSES[name](*rounded), rounded)] == [
        torch.float32,
        *(tensor.dtype for tensor in rounded),
    ]


@ALL
def test_double_backward_is_refused(name: str) -> None:
    given = draw(name, 4)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(LOSSES[name](*given), given, create_graph=True)


def test_second_backward_is_the_same_or_refused() -> None:
    given = draw("info_nce", 4)
    loss = info_nce(*given)
    first = torch.autograd.grad(loss, given, retain_graph=True)
    same(torch.autograd.grad(loss, given), first, 0.0)
    given = draw("sigmoid", 4)
    loss = sigmoid_loss(*given)
    torch.autograd.grad(loss, given, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, given)


@ALL
def test_incoming_gradient_scales_the_gradients_and_forward_alone_works(name: str) -> None:
    given = draw(name, 6)
    expected = loss_and_gradients(LOSSES[name](*given), given)
    found = loss_and_gradients(LOSSES[name](*given) * 0.25, given)
    same(found, [tensor * 0.25 for tensor in expected], 1e-6)
    with torch.no_grad():
        assert torch.equal(LOSSES[name](*given), expected[0])
    fixed = [given[0], given[1].detach(), *(copy.copy(number.detach()) for number in given[2:])]
    (alone,) = torch.autograd.grad(LOSSES[name](*fixed), fixed[:1])
    assert torch.equal(alone, expected[1])


@ALL
def test_no_tensor_is_larger_than_rows_and_a_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(exchange, "_multiply", lambda rows, others, out: seen.append(out.numel()) or out.zero_())
    given = draw(name, 256, 8)
    loss_and_gradients(LOSSES[name](*given, tile_bytes=4 * 1000), given)
    assert max(seen) <= 1000 and sum(seen) >= 256**2


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a scale of one element, found \(3, 4\), \(2, 4\) and \(\)"):
        nt_xent(torch.ones(3, 4), torch.ones(2, 4), torch.tensor(1.0))
