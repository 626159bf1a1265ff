"""TimeSformer equals an independent implementation, forward and backward, and a naive reference in loops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import TimesformerModel

from tests.pretrain.backbones.hugging_face_timesformer import hugging_face_name, hugging_face_twin, tokens_of
from tests.pretrain.backbones.naive_timesformer import NaiveTimeSformer
from trichord.pretrain.backbones.base import Tokens
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import DividedBlock, TimeSformer
from trichord.pretrain.layers import transformer as attention_module
from trichord.pretrain.layers.transformer import products_are_faster

SMALL = TimeSformerSpec(dim=24, depth=3, heads=3, mlp_ratio=2.0, patch=4, frames=3, size=12, drop_path=0.0)
ATTENTIONS = ("divided", "joint", "space")


def small(**changes: object) -> TimeSformerSpec:
    if changes.get("attention") == "space":
        changes = {"positions": "space"} | changes
    return TimeSformerSpec.model_validate(SMALL.model_dump() | changes)


def with_random_weights(spec: TimeSformerSpec, seed: int = 0) -> TimeSformer:
    """Return a backbone without parameters that are zero or one by design."""
    torch.manual_seed(seed)
    backbone = spec.build()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return backbone


def clip(spec: TimeSformerSpec, batch: int = 2, frames: int = 0, size: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, frames or spec.frames, size or spec.size, size or spec.size, generator=generator)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("batch", [1, 4])
def test_it_equals_hugging_face(attention: str, batch: int) -> None:
    ours = with_random_weights(small(attention=attention)).eval()
    theirs = hugging_face_twin(ours).eval()
    compare(ours, theirs, clip(SMALL, batch))


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_stochastic_depth_drops_the_same_as_hugging_face(attention: str) -> None:
    ours = with_random_weights(small(attention=attention, drop_path=0.6)).train()
    theirs = hugging_face_twin(ours).train()
    compare(ours, theirs, clip(SMALL, 4))


def compare(ours: TimeSformer, theirs: TimesformerModel, frames_BCTHW: Tensor) -> None:
    """Compare outputs and gradients (of the input and every parameter) of models with the same weights and draws."""
    frames_BCTHW.requires_grad_()
    torch.manual_seed(3)
    found = ours(frames_BCTHW)
    torch.manual_seed(3)
    expected = tokens_of(theirs, ours.spec, frames_BCTHW)
    assert isinstance(found, Tokens)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(tokens.shape, generator=generator) for tokens in found]
    names = dict(theirs.named_parameters())
    twins = [names[hugging_face_name(name)] for name, _ in ours.named_parameters()]
    mine = torch.autograd.grad(found, [frames_BCTHW, *ours.parameters()], directions)
    yours = torch.autograd.grad(expected, [frames_BCTHW, *twins], directions)
    assert_all_close(mine, yours)


@pytest.mark.parametrize("positions", ["none", "space", "space-time"])
@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_any_number_of_frames_and_size_equal_a_loop_over_tokens(attention: str, positions: str) -> None:
    spec = small(attention=attention, positions=positions, dim=8, heads=2, depth=2, frames=2, size=8)
    backbone = with_random_weights(spec).eval()
    frames_BCTHW = torch.randn(2, 3, 5, 12, 8, generator=torch.Generator().manual_seed(4))
    found = backbone(frames_BCTHW)
    assert found.grid_BtnD.shape == (2, 5, 3 * 2, 8)
    naive = NaiveTimeSformer(spec, dict(backbone.named_parameters()))
    for clip_CTHW, pooled_D, grid_tnD in zip(frames_BCTHW, *found, strict=True):
        expected = naive(clip_CTHW)
        torch.testing.assert_close(pooled_D, expected.pop("class").float(), atol=1e-5, rtol=0)
        in_order = torch.stack([expected[key] for key in sorted(expected)]).float()
        torch.testing.assert_close(grid_tnD.flatten(0, 1), in_order, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("drop_path", [0.0, 0.6])
def test_pooled_only_is_the_same_forward_and_backward(attention: str, drop_path: float) -> None:
    backbone = with_random_weights(small(attention=attention, drop_path=drop_path)).train()
    frames_BCTHW = clip(SMALL).requires_grad_()
    results = []
    for pooled_only in (False, True):
        torch.manual_seed(5)
        tokens = backbone(frames_BCTHW, pooled_only)
        results.append((tokens, gradients(backbone, tokens.pooled_BD, frames_BCTHW)))
    (whole, expected), (alone, found) = results
    assert (whole.grid_BtnD.shape[2], alone.grid_BtnD.shape[2]) == (9, 0)
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD, atol=1e-6, rtol=0)
    assert_all_close(found, expected)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_activation_checkpointing_keeps_gradients(attention: str) -> None:
    results = []
    for forgets in (False, True):
        spec = small(attention=attention, drop_path=0.5, activation_checkpointing=forgets)
        backbone = with_random_weights(spec).train()
        frames_BCTHW = clip(SMALL).requires_grad_()
        torch.manual_seed(6)
        results.append(gradients(backbone, backbone(frames_BCTHW, pooled_only=True).pooled_BD, frames_BCTHW))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_activation_checkpointing_stores_fewer_activations() -> None:
    kept = []
    for forgets in (False, True):
        backbone = with_random_weights(small(activation_checkpointing=forgets))
        seen: dict[int, int] = {}

        def note(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            tokens = backbone(clip(SMALL))
        assert tokens.pooled_BD.requires_grad
        parameters = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
        kept.append(sum(size for pointer, size in seen.items() if pointer not in parameters))
    assert kept[1] < kept[0] / 4


def test_dropped_branch_still_adds_the_bias_after_it() -> None:
    block = DividedBlock(dim=6, heads=2, mlp_dim=12, drop_path=0.999999)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    for batch in (1, 3):  # fewer tokens than features, and more of them
        grid_BtnD = torch.randn(batch, 2, 2, 6)
        learnt_BtnD = block.train()._learn_in_time(grid_BtnD)
        torch.testing.assert_close(learnt_BtnD, block.temporal_fc.bias.expand_as(learnt_BtnD))


@pytest.mark.parametrize("first_weights", ["published", "by_width"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_parameter_is_initialised(attention: str, first_weights: str) -> None:
    backbone = TimeSformer(small(attention=attention, first_weights=first_weights))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(torch.nan)
    backbone.initialise()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.isnan().any()]


def test_init_by_width_keeps_the_variance_in_narrow_networks_too() -> None:
    torch.manual_seed(0)
    backbone = TimeSformer(small(dim=48, depth=2, first_weights="by_width"))
    assert backbone.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert backbone.blocks[1].mlp.fc2.weight.std().item() == pytest.approx((2 * 48) ** -0.5, rel=0.05)
    assert backbone.blocks[1].temporal_fc.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert backbone.time_embed.std().item() == pytest.approx(0.1, rel=0.3)


def test_temporal_attention_has_no_effect_at_init() -> None:
    torch.manual_seed(0)
    backbone = TimeSformer(small(dim=48, depth=2)).eval()
    names = [name for name, parameter in backbone.named_parameters() if not parameter.any() and parameter.ndim > 1]
    assert names == ["time_embed", "blocks.0.temporal_fc.weight", "blocks.1.temporal_fc.weight"]
    assert backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.4)
    assert backbone.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    still = clip(SMALL, batch=1, frames=1)
    longer = still.expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(backbone(still).pooled_BD, backbone(longer).pooled_BD)


def test_stochastic_depth_increases_linearly_from_zero() -> None:
    backbone = TimeSformer(small(depth=5, drop_path=0.4))
    assert [block.drop_path.rate for block in backbone.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_layers_are_numbered_from_the_embeddings_to_the_last_norm() -> None:
    backbone = TimeSformer(SMALL)
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert backbone.layers == SMALL.depth + 2
    embeddings = {"cls_token", "pos_embed", "time_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert {name for name, layer in layers.items() if layer == 0} == embeddings
    assert layers["blocks.0.norm1.weight"] == 1
    assert layers["blocks.2.mlp.fc2.bias"] == 3
    assert layers["norm.weight"] == layers["norm.bias"] == 4


def test_bf16_is_close_to_fp32() -> None:
    backbone = with_random_weights(small(dim=48)).eval()
    exact = backbone(clip(SMALL))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(clip(SMALL))
    for one, other in zip(rounded, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


def test_explicit_scores_equal_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = with_random_weights(SMALL).eval()
    fused = backbone(clip(SMALL))
    monkeypatch.setattr(attention_module, "products_are_faster", lambda queries_BGLK: True)
    for one, other in zip(backbone(clip(SMALL)), fused, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_scores_are_explicit_for_short_bf16_sequences_on_cpus_with_matrix_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries_BGLK = torch.zeros(1, 2, 8, 4, dtype=torch.bfloat16)
    for has_tiles in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_tiles=has_tiles: {"amx_tile": has_tiles})
        assert products_are_faster(queries_BGLK) is has_tiles
        assert not products_are_faster(queries_BGLK.float())
        assert not products_are_faster(torch.zeros(1, 2, 300, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_it_compiles_to_one_graph(attention: str) -> None:
    backbone = with_random_weights(small(attention=attention, depth=2)).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for one, other in zip(compiled(clip(SMALL)), backbone(clip(SMALL)), strict=True):
        torch.testing.assert_close(one, other)


def test_frames_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="expected frames of a multiple of 4 pixels, found 14 x 14"):
        TimeSformer(SMALL)(clip(SMALL, size=14))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "expected dim to be a multiple of heads, found dim 24 and heads 5"),
        ({"size": 13}, "expected size to be a multiple of patch, found size 13 and patch 4"),
        ({"attention": "space", "positions": "space-time"}, "expected positions 'space' or 'none'"),
        ({"colour": 3}, "Extra inputs are not permitted"),
    ],
)
def test_invalid_specs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**changes)


def gradients(backbone: TimeSformer, pooled_BD: Tensor, frames_BCTHW: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients, with respect to the input and every parameter, of a scalar of the pooled vectors."""
    return torch.autograd.grad(
        pooled_BD.square().mul(torch.arange(1.0, 1 + backbone.dim)).sum(), [frames_BCTHW, *backbone.parameters()]
    )


def assert_all_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)
