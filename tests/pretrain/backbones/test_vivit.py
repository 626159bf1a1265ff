"""Model 1 of ViViT equals Hugging Face's, and the others a naive reference in loops, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import VivitConfig, VivitForVideoClassification, VivitModel

from tests.pretrain.backbones.naive_vivit import NaiveViViT
from trichord.core.errors import UserError
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.vivit import ViViTSpec
from trichord.pretrain.backbones.vivit.model import ViViT
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.layers.embeddings import positions_between
from trichord.pretrain.weights.load import load_published, load_tensors

SMALL = ViViTSpec(dim=16, depth=2, heads=2, mlp_ratio=2.0, patch=4, frames=6, size=12, time_depth=2, drop_path=0.0)
MODELS: dict[str, dict[str, object]] = {
    "joint": {},
    "joint, mean": {"pooled": "mean"},
    "encoder": {"model": "factorised_encoder"},
    "encoder, mean": {"model": "factorised_encoder", "pooled": "mean"},
    "encoder, no second": {"model": "factorised_encoder", "time_depth": 0},
    "self-attention": {"model": "factorised_self_attention", "pooled": "mean"},
    "dot product": {"model": "factorised_dot_product", "pooled": "mean"},
}
each_model = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)


def small(**changes: object) -> ViViTSpec:
    return ViViTSpec.model_validate(SMALL.model_dump() | changes)


def with_random_weights(spec: ViViTSpec, seed: int = 0) -> ViViT:
    torch.manual_seed(seed)
    backbone = spec.build()
    assert isinstance(backbone, ViViT)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone


def clip(spec: ViViTSpec, batch: int = 2, frames: int = 0, size: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, frames or spec.frames, size or spec.size, size or spec.size, generator=generator)


def gradient(tokens: tuple[Tensor, Tensor], frames_BCTHW: Tensor) -> Tensor:
    """Return the gradient, with respect to the frames, of a scalar of all outputs."""
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(each.shape, generator=generator).to(each) for each in tokens]
    return torch.autograd.grad(tokens, frames_BCTHW, directions)[0]


@pytest.mark.parametrize("kind", [VivitForVideoClassification, VivitModel])
def test_model_1_equals_hugging_face_with_weights_from_a_file(tmp_path: Path, kind: type[nn.Module]) -> None:
    config = VivitConfig(
        image_size=12, num_frames=6, tubelet_size=[2, 4, 4], hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = kind(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = SMALL.build().eval()
    found = load_published(InitFrom(path=tmp_path, allow_unused=("classifier.*", "pooler.*")), ours)
    assert (found.missing, found.resized, len(found.taken)) == ([], [], len(ours.state_dict()))
    frames_BCTHW = clip(SMALL).requires_grad_()
    tokens = ours(frames_BCTHW)
    base = theirs.vivit if isinstance(theirs, VivitForVideoClassification) else theirs
    last_BLD = base(frames_BCTHW.transpose(1, 2)).last_hidden_state
    expected = (last_BLD[:, 0], last_BLD[:, 1:].unflatten(1, (3, 9)))
    for one, other in zip(tokens, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient(tokens, frames_BCTHW), gradient(expected, frames_BCTHW), atol=1e-5, rtol=0)


@each_model
@pytest.mark.parametrize("tubelet", [1, 2])
def test_every_model_equals_a_loop_over_tokens(changes: dict[str, object], tubelet: int) -> None:
    spec = small(**changes, tubelet=tubelet, frames=3 * tubelet, size=8, dim=8)
    backbone = with_random_weights(spec).eval()
    frames_BCTHW = clip(spec).requires_grad_()
    tokens = backbone(frames_BCTHW)
    naive = NaiveViViT(spec, dict(backbone.named_parameters()))
    written_out = [naive(clip_CTHW) for clip_CTHW in frames_BCTHW]
    pooled_BD = torch.stack([found.pop("pooled") for found in written_out]).float()
    grid_BLD = torch.stack([torch.stack([found[key] for key in sorted(found)]) for found in written_out]).float()
    expected = (pooled_BD, grid_BLD.unflatten(1, (3, 4)))
    for one, other in zip(tokens, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient(tokens, frames_BCTHW), gradient(expected, frames_BCTHW), atol=1e-5, rtol=1e-5)


@each_model
def test_pooled_only_is_the_same(changes: dict[str, object]) -> None:
    backbone = with_random_weights(small(**changes)).eval()
    whole, alone = backbone(clip(SMALL)), backbone(clip(SMALL), pooled_only=True)
    assert (whole.grid_BtnD.shape, alone.grid_BtnD.shape) == ((2, 3, 9, 16), (2, 3, 0, 16))
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD, atol=1e-6, rtol=0)


@each_model
def test_activation_checkpointing_keeps_gradients(changes: dict[str, object]) -> None:
    results = []
    for forgets in (False, True):
        backbone = with_random_weights(small(**changes, drop_path=0.5, activation_checkpointing=forgets)).train()
        torch.manual_seed(6)
        pooled_BD = backbone(clip(SMALL), pooled_only=True).pooled_BD
        results.append(torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@each_model
def test_it_accepts_other_frames_and_sizes_and_compiles_to_one_graph(changes: dict[str, object]) -> None:
    backbone = with_random_weights(small(**changes)).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    frames_BCTHW = clip(SMALL, frames=8, size=16)
    found = backbone(frames_BCTHW)
    assert found.grid_BtnD.shape == (2, 4, 16, 16)
    for one, other in zip(compiled(frames_BCTHW), found, strict=True):
        torch.testing.assert_close(one, other)


@each_model
def test_bf16_is_close_to_fp32(changes: dict[str, object]) -> None:
    backbone = with_random_weights(small(**changes, dim=48)).eval()
    exact = backbone(clip(SMALL))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(clip(SMALL))
    for one, other in zip(rounded, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


def test_positions_of_another_size_are_interpolated_linearly() -> None:
    table_1TND = torch.tensor([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]]).view(1, 2, 4, 1)
    assert positions_between(table_1TND, 2, 2, 2).flatten().tolist() == table_1TND.flatten().tolist()
    wider_1thwD = positions_between(table_1TND, 4, 2, 4)
    assert wider_1thwD[0, :, 0, 0, 0].tolist() == [0, 2.5, 7.5, 10]
    assert wider_1thwD[0, 0, 1, :, 0].tolist() == [2, 2.25, 2.75, 3]


@each_model
def test_tables_of_another_size_or_frames_are_adapted_as_at_run_time(changes: dict[str, object]) -> None:
    for other in ({"frames": 8}, {"size": 16}):
        larger = with_random_weights(small(**changes, **other)).eval()
        fresh = small(**changes).build().eval()
        load_tensors(larger.state_dict(), InitFrom(path=Path("w")), fresh)
        torch.testing.assert_close(fresh(clip(SMALL)).pooled_BD, larger(clip(SMALL)).pooled_BD)


@pytest.mark.parametrize(
    ("from_frames", "from_size", "frames", "size"), [(8, 224, 8, 448), (8, 448, 8, 224), (32, 224, 8, 224)]
)
def test_ambiguous_table_is_read_as_in_released_files(from_frames: int, from_size: int, frames: int, size: int) -> None:
    given = small(frames=from_frames, size=from_size, patch=16).build()
    step_1Ln = torch.arange(given.steps).repeat_interleave(given.places).view(1, -1, 1)
    with torch.no_grad():
        given.pos_embed[:, 1:] = step_1Ln
    fresh = small(frames=frames, size=size, patch=16).build()
    load_tensors(given.state_dict(), InitFrom(path=Path("w")), fresh)
    for step, entries_nD in enumerate(fresh.pos_embed[0, 1:].unflatten(0, (fresh.steps, fresh.places))):
        ratio = given.steps // fresh.steps
        torch.testing.assert_close(entries_nD, torch.full_like(entries_nD, ratio * step + (ratio - 1) / 2))


def test_other_ambiguous_tables_are_refused() -> None:
    small_one = small(frames=2, size=8).build()
    with pytest.raises(UserError, match="pos_embed: 1x17x16 in the file, 1x5x16 in the network"):
        load_tensors(small(frames=8, size=8).build().state_dict(), InitFrom(path=Path("w")), small_one)


def image_vit(size: int = 12) -> tuple[dict[str, Tensor], nn.Module]:
    """Return the tensors of an image model, and that model, which takes one frame."""
    spec = TimeSformerSpec(
        dim=16, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=size, frames=1, attention="space", positions="space"
    )
    model = spec.build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.state_dict(), model


@pytest.mark.parametrize("first", ["central", "inflated"])
@pytest.mark.parametrize("tubelet", [1, 2, 3])
def test_tubelets_of_a_still_clip_equal_the_image_model_at_init(first: str, tubelet: int) -> None:
    file, image = image_vit()
    ours = small(tubelet=tubelet, first_tubelets=first).build()
    found = load_tensors(file, InitFrom(path=Path("vit.pth")), ours)
    assert any("patch_embed.proj.weight from 16x3x4x4 to" in line for line in found.resized)
    still_BCTHW = clip(SMALL, frames=1)
    expected_B1hwD = image.patch_embed(still_BCTHW)
    found_BthwD = ours.patch_embed(still_BCTHW.expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(found_BthwD, expected_B1hwD.expand_as(found_BthwD))
    kernel = ours.patch_embed.proj.weight
    sees = [frame for frame in range(tubelet) if kernel[:, :, frame].any()]
    assert sees == ([tubelet // 2] if first == "central" else list(range(tubelet)))


def test_positions_of_images_are_repeated_at_every_step() -> None:
    file, _ = image_vit()
    ours = SMALL.build()
    load_tensors(file, InitFrom(path=Path("vit.pth")), ours)
    assert torch.equal(ours.pos_embed[:, :1], file["pos_embed"][:, :1])
    for step in range(3):
        assert torch.equal(ours.pos_embed[:, 1 + 9 * step : 10 + 9 * step], file["pos_embed"][:, 1:])


def test_positions_of_larger_images_are_resized_before_they_are_repeated() -> None:
    file, _ = image_vit(size=24)  # 36 places, which could also be 4 places of 9 steps
    ours = SMALL.build()
    load_tensors(file, InitFrom(path=Path("vit.pth")), ours)
    expected_1nD = positions_between(file["pos_embed"][:, 1:].unsqueeze(1), 1, 3, 3).flatten(1, 3)
    assert torch.equal(ours.pos_embed[:, 1:], expected_1nD.repeat(1, 3, 1))


def test_factorised_encoder_equals_the_image_model_of_each_step_at_init() -> None:
    file, image = image_vit()
    spec = small(model="factorised_encoder", time_depth=0)
    ours = spec.build().eval()
    load_tensors(file, InitFrom(path=Path("vit.pth")), ours)
    frames_BCTHW = clip(SMALL)
    second_of_each_BCtHW = frames_BCTHW[:, :, 1::2]
    for block in (*ours.blocks, *image.blocks):
        block.mlp.activate = torch.relu  # TimeSformer's GELU is exact, ViViT's that of flax
    found_BtnD, expected_BtnD = ours(frames_BCTHW).grid_BtnD, image(second_of_each_BCtHW).grid_BtnD
    torch.testing.assert_close(found_BtnD, expected_BtnD, atol=1e-5, rtol=0)


def test_temporal_attention_starts_as_zero_with_gradients_or_as_a_copy() -> None:
    file, _ = image_vit()
    spec = small(model="factorised_self_attention", pooled="mean")
    ours = spec.build()
    lacks = InitFrom(path=Path("vit.pth"), allow_missing=("*temporal*",), allow_unused=("*cls_token",))
    load_tensors(file, lacks, ours)
    ours(clip(SMALL)).pooled_BD.square().sum().backward()
    for block in ours.blocks:
        assert not block.temporal_attn.proj.weight.any()
        assert block.temporal_attn.proj.weight.grad.any()
        block.temporal_attn.proj.weight.data.normal_()
    copied = InitFrom(path=Path("vit.pth"), time_from_space=True, allow_unused=("*cls_token",))
    assert load_tensors(file, copied, ours).missing == []
    assert torch.equal(ours.blocks[1].temporal_attn.qkv.weight, ours.blocks[1].attn.qkv.weight)
    assert torch.equal(ours.blocks[1].temporal_norm1.bias, ours.blocks[1].norm1.bias)


@each_model
def test_every_parameter_is_initialised_and_has_a_layer(changes: dict[str, object]) -> None:
    backbone = ViViT(small(**changes))
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, torch.nan)
    backbone.initialise()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.isnan().any()]
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert sorted(set(layers.values())) == list(range(backbone.layers))
    assert layers["pos_embed"] == layers["patch_embed.proj.bias"] == 0
    assert (layers["blocks.0.norm1.weight"], layers["blocks.1.mlp.fc2.bias"]) == (1, 2)
    last = [name for name, layer in layers.items() if layer == backbone.layers - 1]
    assert last == (
        ["time_norm.weight", "time_norm.bias"] if "time_norm.weight" in layers else ["norm.weight", "norm.bias"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "expected dim to be a multiple of heads, found dim 16 and heads 5"),
        ({"size": 13}, "expected size to be a multiple of patch, found size 13 and patch 4"),
        ({"frames": 7}, "expected frames to be a multiple of tubelet, found frames 7 and tubelet 2"),
        ({"model": "factorised_dot_product"}, "has no class token: expected pooled 'mean'"),
        ({"model": "factorised_dot_product", "pooled": "mean", "heads": 1}, "expected heads to be even, found 1"),
    ],
)
def test_invalid_specs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**changes)


def test_clips_that_tubelets_do_not_divide_are_refused() -> None:
    expected = "expected a multiple of 2 frames of a multiple of 4 pixels, found 5 of 12 x 12"
    with pytest.raises(ValueError, match=expected):
        ViViT(SMALL)(clip(SMALL, frames=5))
