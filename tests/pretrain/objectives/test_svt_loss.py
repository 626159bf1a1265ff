"""The loss of SVT is the mean of its cross-entropies, and its gradients equal those of autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.objectives.svt import loss as svt_loss
from trichord.pretrain.objectives.svt.loss import ProjectionHead, PrototypeLayer

BATCH, DIM, COUNT = 5, 7, 29
TEACHER_T, STUDENT_T = 0.04, 0.1


def naive_logits(rows_ND: Tensor, weight_v: Tensor, weight_g: Tensor) -> Tensor:
    """Normalise every prototype first, as weight norm is defined."""
    return rows_ND @ (weight_g * weight_v / weight_v.square().sum(dim=1, keepdim=True).sqrt()).T


def naive_terms(logits_VBK: Tensor, teacher_GBK: Tensor, centre_K: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return the cross-entropy of each teacher view with each student view except that of the same index."""
    terms = {}
    for teacher, student in itertools.product(range(2), range(len(logits_VBK))):
        if teacher == student:
            continue
        rows = []
        for sample in range(logits_VBK.shape[1]):
            target_K = functional.softmax((teacher_GBK[teacher, sample] - centre_K) / TEACHER_T, dim=-1)
            rows.append(-(target_K * functional.log_softmax(logits_VBK[student, sample] / STUDENT_T, dim=-1)).sum())
        terms[teacher, student] = torch.stack(rows).mean()
    return terms


def make(views: int, has_fixed_norm: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Tensor, PrototypeLayer]:
    torch.manual_seed(0)
    prototypes = PrototypeLayer(DIM, COUNT, has_fixed_norm).to(dtype)
    with torch.no_grad():
        prototypes.weight_g.mul_(torch.rand(COUNT, 1) + 0.5)
    return functional.normalize(torch.randn(BATCH, views, DIM, dtype=dtype), dim=-1).requires_grad_(), prototypes


def targets(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(2, BATCH, COUNT, dtype=dtype) / 10, torch.randn(COUNT, dtype=dtype) / 20


@pytest.mark.parametrize("views", [2, 3, 10])
@pytest.mark.parametrize("samples_at_a_time", [1, 2, BATCH])
def test_loss_and_gradients_equal_the_naive_computation(
    views: int, samples_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svt_loss, "CHUNK_LOGITS", samples_at_a_time * views * COUNT)
    rows_BVD, prototypes = make(views, has_fixed_norm=False)
    teacher_GBK, centre_K = targets()
    terms = naive_terms(
        naive_logits(rows_BVD.transpose(0, 1), prototypes.weight_v, prototypes.weight_g), teacher_GBK, centre_K
    )
    assert len(terms) == 2 * (views - 1)
    inputs = (rows_BVD, prototypes.weight_v, prototypes.weight_g)
    expected_loss = sum(terms.values(), start=torch.zeros((), dtype=torch.float64)) / len(terms)
    expected = torch.autograd.grad(expected_loss, inputs)

    targets_GBK = svt_loss.teacher_targets(teacher_GBK.clone(), centre_K, TEACHER_T)
    loss, terms_BV = prototypes(rows_BVD, targets_GBK, STUDENT_T, 1 / (BATCH * len(terms)))
    found = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    for view in range(views):
        wanted = sum(term for (_, student), term in terms.items() if student == view)
        torch.testing.assert_close(terms_BV[:, view].mean(), wanted)


def test_the_loss_is_right_at_full_width_in_single_precision() -> None:
    torch.manual_seed(1)
    prototypes = PrototypeLayer(256, 65536, has_fixed_norm=True)
    rows_BVD = functional.normalize(torch.randn(2, 10, 256), dim=-1).requires_grad_()
    teacher_GBK, centre_K = torch.randn(2, 2, 65536) / 16, torch.randn(65536) / 100
    terms = naive_terms(
        naive_logits(rows_BVD.transpose(0, 1), prototypes.weight_v, prototypes.weight_g), teacher_GBK, centre_K
    )
    expected_loss = torch.stack(list(terms.values())).mean()
    inputs = (rows_BVD, prototypes.weight_v)
    expected = torch.autograd.grad(expected_loss, inputs)
    targets_GBK = svt_loss.teacher_targets(teacher_GBK, centre_K, TEACHER_T)
    loss, _ = prototypes(rows_BVD, targets_GBK, STUDENT_T, 1 / (2 * 18))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for one, other in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


def test_a_global_view_is_not_compared_with_its_own_teacher() -> None:
    rows_BVD, prototypes = make(views=3)
    for view, unheard in ((0, 0), (1, 1)):
        targets_GBK = torch.softmax(torch.randn(2, BATCH, COUNT, dtype=torch.float64), dim=-1)
        before = prototypes(rows_BVD, targets_GBK).terms_BV
        targets_GBK[unheard] = 1 / COUNT
        after = prototypes(rows_BVD, targets_GBK).terms_BV
        torch.testing.assert_close(after[:, view], before[:, view])
        assert not torch.isclose(after[:, 1 - view], before[:, 1 - view]).any()
        assert not torch.isclose(after[:, 2], before[:, 2]).any()


def test_frozen_last_layer_has_zero_gradient_and_passes_it_on() -> None:
    rows_BVD, prototypes = make(views=4)
    targets_GBK = svt_loss.teacher_targets(*targets(), TEACHER_T)
    free, _ = prototypes(rows_BVD, targets_GBK, STUDENT_T)
    frozen, _ = prototypes(rows_BVD, targets_GBK, STUDENT_T, is_frozen=True)
    of_free = torch.autograd.grad(free, (rows_BVD, prototypes.weight_v))
    of_frozen = torch.autograd.grad(frozen, (rows_BVD, prototypes.weight_v))
    assert torch.equal(free, frozen) and torch.equal(of_free[0], of_frozen[0])
    assert of_free[1].abs().min() > 0 and not of_frozen[1].any()


def test_incoming_gradient_scales_the_gradient_once() -> None:
    rows_BVD, prototypes = make(views=4)
    targets_GBK = svt_loss.teacher_targets(*targets(), TEACHER_T)
    (once,) = torch.autograd.grad(prototypes(rows_BVD, targets_GBK).loss, rows_BVD)
    loss = prototypes(rows_BVD, targets_GBK).loss
    (thrice,) = torch.autograd.grad(3 * loss, rows_BVD, retain_graph=True)
    torch.testing.assert_close(thrice, 3 * once)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, rows_BVD)


def test_under_autocast_only_products_are_rounded() -> None:
    rows_BVD, prototypes = make(views=10, dtype=torch.float32)
    teacher_GBK, centre_K = targets(torch.float32)
    targets_GBK = svt_loss.teacher_targets(teacher_GBK, centre_K, TEACHER_T)
    exact = prototypes(rows_BVD, targets_GBK, STUDENT_T, 1 / (BATCH * 18)).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded, terms_BV = prototypes(rows_BVD, targets_GBK, STUDENT_T, 1 / (BATCH * 18))
        assert prototypes(rows_BVD).dtype == torch.float32
    assert rounded.dtype == terms_BV.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=0)
    inputs = (rows_BVD, prototypes.weight_v)
    pairs = zip(torch.autograd.grad(rounded, inputs), torch.autograd.grad(exact, inputs), strict=True)
    assert all((one - other).norm() < 0.02 * other.norm() for one, other in pairs)


def test_logits_equal_those_of_torchs_weight_norm() -> None:
    head = ProjectionHead(dim=6, hidden=11, bottleneck=DIM, prototypes=COUNT, has_fixed_norm=True)
    published = ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "mlp.4.weight", "mlp.4.bias"]
    assert sorted(head.state_dict()) == sorted([*published, "last_layer.weight_g", "last_layer.weight_v"])
    assert not head.last_layer.weight_g.requires_grad and (head.last_layer.weight_g == 1).all()
    linear = torch.nn.Linear(DIM, COUNT, bias=False)
    linear.load_state_dict({"weight": head.last_layer.weight_v})
    normed = torch.nn.utils.parametrizations.weight_norm(linear)
    with torch.no_grad():
        normed.parametrizations.weight.original0.fill_(1)
    pooled_ND = torch.randn(3, 6)
    torch.testing.assert_close(head(pooled_ND), normed(functional.normalize(head.mlp(pooled_ND), dim=-1)))
    assert ProjectionHead(768, 2048, 256, 65536, True).last_layer.weight_v.shape == (65536, 256)


def test_the_head_has_the_published_number_of_values() -> None:
    head = ProjectionHead(dim=768, hidden=2048, bottleneck=256, prototypes=65536, has_fixed_norm=True)
    assert sum(parameter.numel() for parameter in head.parameters()) == 23_138_560
