"""VideoMamba equals a naive implementation token by token, loads the published files, and trains like others."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from tests.pretrain.backbones.naive_videomamba import NaiveVideoMamba
from trichord.pretrain.backbones.videomamba import VideoMambaSpec
from trichord.pretrain.backbones.videomamba import model as videomamba_model
from trichord.pretrain.backbones.videomamba.model import CausalConvolution, VideoMamba
from trichord.pretrain.engine.config import GroupRules, InitFrom
from trichord.pretrain.engine.parameter_groups import group_parameters
from trichord.pretrain.engine.rehearsal import count_flops
from trichord.pretrain.layers import selective_scan as mamba_kernels
from trichord.pretrain.weights.load import families, load_tensors

SMALL = VideoMambaSpec(dim=24, depth=3, patch=4, frames=3, size=8, drop_path=0.0)
SIZES = {"t": (192, 24), "s": (384, 24), "m": (576, 32), "b": (768, 24)}


def small(**changes: object) -> VideoMambaSpec:
    return VideoMambaSpec.model_validate(SMALL.model_dump() | changes)


def init(**changes: object) -> InitFrom:
    return InitFrom.model_validate({"path": Path("weights.pth")} | changes)


def published(
    dim: int, depth: int, frames: int = 8, size: int = 224, classes: int = 400, patch: int = 16
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the file of a model that was fine-tuned on videos."""
    rank, wide = -(-dim // 16), 2 * dim
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + (size // patch) ** 2, dim),
        "temporal_pos_embedding": (1, frames, dim),
        "patch_embed.proj.weight": (dim, 3, 1, patch, patch),
        "patch_embed.proj.bias": (dim,),
    }
    for number in range(depth):
        mixer = f"layers.{number}.mixer."
        shapes |= {
            f"layers.{number}.norm.weight": (dim,),
            f"{mixer}in_proj.weight": (2 * wide, dim),
            f"{mixer}out_proj.weight": (dim, wide),
        }
        for way, decay, skip in (("", "A_log", "D"), ("_b", "A_b_log", "D_b")):
            shapes |= {
                f"{mixer}{decay}": (wide, 16),
                f"{mixer}{skip}": (wide,),
                f"{mixer}conv1d{way}.weight": (wide, 1, 4),
                f"{mixer}conv1d{way}.bias": (wide,),
                f"{mixer}x_proj{way}.weight": (rank + 32, wide),
                f"{mixer}dt_proj{way}.weight": (wide, rank),
                f"{mixer}dt_proj{way}.bias": (wide,),
            }
    return shapes | {"norm_f.weight": (dim,), "head.weight": (classes, dim), "head.bias": (classes,)}


def published_images(dim: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes = published(dim, depth, classes=1000)
    del shapes["temporal_pos_embedding"]
    return shapes | {"patch_embed.proj.weight": (dim, 3, 16, 16)}


def published_unmasking(dim: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes = {name: shape for name, shape in published(dim, depth).items() if not name.startswith(("head", "norm_f"))}
    head = {"head.weight": (512, dim), "head.bias": (512,), "norm.weight": (512,), "norm.bias": (512,)}
    return shapes | {"norm.weight": (dim,)} | {f"clip_decoder.0.{name}": shape for name, shape in head.items()}


def on_meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def with_random_weights(spec: VideoMambaSpec) -> tuple[VideoMamba, dict[str, Tensor]]:
    """Return a backbone with weights from a file, and the tensors of that file."""
    backbone = spec.build()
    assert isinstance(backbone, VideoMamba)
    shapes = published(spec.dim, spec.depth, spec.frames, spec.size, patch=spec.patch)
    generator = torch.Generator().manual_seed(0)
    file = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    load_tensors(file, init(allow_unused=["classifier.*"]), backbone)
    return backbone, file


def clips(batch: int = 2, frames: int = 3, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


def test_it_equals_the_naive_implementation_forward_and_backward() -> None:
    backbone, file = with_random_weights(SMALL)
    naive = NaiveVideoMamba(file, SMALL.depth, SMALL.patch)
    frames_BCTHW = clips().requires_grad_()
    found = torch.cat([tokens.reshape(2, -1, 24) for tokens in backbone.eval()(frames_BCTHW)], dim=1)
    expected = torch.stack([torch.stack(naive(clip_CTHW)) for clip_CTHW in frames_BCTHW])
    assert found.shape == (2, 1 + 3 * 4, 24)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (mine,) = torch.autograd.grad(found, frames_BCTHW, direction)
    (theirs,) = torch.autograd.grad(expected, frames_BCTHW, direction.double())
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_class_token_needs_the_backward_scan() -> None:
    backbone, _ = with_random_weights(SMALL)
    with torch.no_grad():
        for block in backbone.blocks:
            block.mixer.back.conv1d.weight.zero_()
            block.mixer.back.conv1d.bias.zero_()
    one, other = (backbone(frames_BCTHW).pooled_BD for frames_BCTHW in (clips(), clips() + 1))
    assert torch.equal(one, other)
    whole, _ = with_random_weights(SMALL)
    assert not torch.equal(whole(clips()).pooled_BD, whole(clips() + 1).pooled_BD)


def test_tables_are_resized_for_any_frames_and_size() -> None:
    backbone, file = with_random_weights(SMALL)
    frames_BCTHW = clips(frames=5, height=12, width=8)
    found = backbone.eval()(frames_BCTHW)
    assert found.grid_BtnD.shape == (2, 5, 6, 24)
    class_11D, table = file["pos_embed"][:, :1], file["pos_embed"][:, 1:].view(1, 2, 2, 24).permute(0, 3, 1, 2)
    table = functional.interpolate(table, (3, 2), mode="bicubic", align_corners=False).flatten(2).mT
    times = functional.interpolate(file["temporal_pos_embedding"].mT, 5, mode="linear", align_corners=False).mT
    resized = file | {"pos_embed": torch.cat((class_11D, table), dim=1), "temporal_pos_embedding": times}
    expected = torch.stack(NaiveVideoMamba(resized, SMALL.depth, SMALL.patch)(frames_BCTHW[1]))
    tokens = torch.cat((found.pooled_BD[1:], found.grid_BtnD[1].flatten(0, 1)))
    torch.testing.assert_close(tokens.double(), expected, atol=1e-5, rtol=0)


def gradients(backbone: nn.Module, frames_BCTHW: Tensor, pooled_only: bool = False) -> list[Tensor]:
    torch.manual_seed(3)
    out = backbone(frames_BCTHW, pooled_only).pooled_BD.square().sum()
    return [out, *torch.autograd.grad(out, [frames_BCTHW, *backbone.parameters()])]


@pytest.mark.parametrize("changed", ["activation_checkpointing", "pooled_only"])
def test_checkpointing_and_pooled_only_keep_gradients(changed: str) -> None:
    spec = small(drop_path=0.5)
    plain, _ = with_random_weights(spec)
    other = plain
    if changed == "activation_checkpointing":
        other, _ = with_random_weights(small(drop_path=0.5, activation_checkpointing=True))
    frames_BCTHW = clips().requires_grad_()
    expected = gradients(plain.train(), frames_BCTHW)
    found = gradients(other.train(), frames_BCTHW, pooled_only=changed == "pooled_only")
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    assert plain(clips(), pooled_only=True).grid_BtnD.shape == (2, 3, 0, 24)


def test_stochastic_depth_increases_from_zero_and_skips_whole_blocks() -> None:
    backbone, file = with_random_weights(small(drop_path=0.6))
    assert [block.drop_path.rate for block in backbone.blocks] == pytest.approx([0, 0.3, 0.6])
    draws = torch.rand(2, generator=torch.manual_seed(1))
    scales = [0.0 if draw < rate else 1 / (1 - rate) for draw, rate in zip(draws.tolist(), (0.3, 0.6), strict=True)]
    assert scales[0] > 0 == scales[1]
    for number, scale in enumerate(scales, start=1):
        file[f"layers.{number}.mixer.out_proj.weight"] = file[f"layers.{number}.mixer.out_proj.weight"] * scale
    expected = NaiveVideoMamba(file, SMALL.depth, SMALL.patch)(clips(1)[0])
    torch.manual_seed(1)
    pooled_BD = backbone.train()(clips(1)).pooled_BD
    torch.testing.assert_close(pooled_BD[0].double(), expected[0], atol=1e-5, rtol=0)


def test_residual_stream_stays_in_single_precision_under_bf16() -> None:
    backbone, _ = with_random_weights(SMALL)
    seen: list[torch.dtype] = []
    backbone.blocks[-1].register_forward_hook(lambda block, given, out: seen.append(out.dtype))
    expected = backbone.eval()(clips()).pooled_BD
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(clips()).pooled_BD
    assert seen == [torch.float32, torch.float32]
    assert functional.cosine_similarity(found.float(), expected).min() > 0.99


def test_it_compiles_without_a_graph_break() -> None:
    backbone, _ = with_random_weights(SMALL)
    compiled = torch.compile(backbone.eval(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(clips()).pooled_BD, backbone(clips()).pooled_BD)


def test_every_parameter_is_initialised_and_steps_are_as_published() -> None:
    backbone = small(dim=48).build()
    assert isinstance(backbone, VideoMamba)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(torch.nan)
    backbone.initialise()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.isnan().any()]
    way = backbone.blocks[1].mixer.back
    steps_E = functional.softplus(way.dt_proj.bias)
    assert 0.001 <= steps_E.min() < 0.003 and 0.03 < steps_E.max() <= 0.1001
    torch.testing.assert_close(way.A_log.exp(), torch.arange(1.0, 17).expand(96, 16))
    assert backbone.blocks[0].mixer.out_proj.weight.abs().max() < 1 / (96 * 3) ** 0.5
    assert not backbone.temporal_pos_embedding.any() and not backbone.cls_token.any()


def test_scan_decay_has_no_weight_decay_and_layers_are_numbered() -> None:
    backbone = SMALL.build()
    groups = group_parameters(backbone, GroupRules(), {"": backbone})
    spared = {name for group in groups if not group.decay_scale for name in group.parameters}
    assert {name for name, _ in backbone.named_parameters() if name.endswith((".A_log", ".D", "bias"))} <= spared
    assert not {name for name in spared if "proj.weight" in name}
    names = ("pos_embed", "patch_embed.proj.bias", "blocks.0.mixer.in_proj.weight", "blocks.2.norm.weight")
    assert [backbone.layer_of(name) for name in (*names, "norm_f.weight")] == [0, 0, 1, 3, 4]
    assert backbone.layers == 5


@pytest.mark.parametrize("size", SIZES)
def test_published_files_load_strictly(size: str) -> None:
    dim, depth = SIZES[size]
    with torch.device("meta"):
        backbone = VideoMambaSpec(dim=dim, depth=depth).build()
        longer = VideoMambaSpec(dim=dim, depth=depth, frames=64, size=384).build()
    video = load_tensors(on_meta(published(dim, depth)), init(allow_unused=["classifier.*"]), backbone)
    assert (video.family, video.missing, video.resized) == ("VideoMamba", [], [])
    assert video.unused == ["classifier.weight", "classifier.bias"]
    long = load_tensors(on_meta(published(dim, depth, 64, 384)), init(allow_unused=["classifier.*"]), longer)
    assert (long.missing, long.resized) == ([], [])
    lacking = init(allow_unused=["classifier.*"], allow_missing=["*temporal_pos_embedding"])
    images = load_tensors(on_meta(published_images(dim, depth)), lacking, backbone)
    assert images.missing == ["backbone.temporal_pos_embedding"] and not images.resized
    unmasking = load_tensors(on_meta(published_unmasking(dim, depth)), init(allow_unused=["clip_decoder.*"]), backbone)
    assert not unmasking.missing and len(unmasking.unused) == 4
    resized = load_tensors(on_meta(published(dim, depth)), init(allow_unused=["classifier.*"]), longer).resized
    assert [line.split(" ")[0] for line in resized] == ["backbone.pos_embed", "backbone.temporal_pos_embedding"]


def test_parameter_counts_are_the_published_ones() -> None:
    counts = {"t": (7_033_744, 416), "s": (25_568_656, 416), "m": (73_875_856, 552), "b": (97_143_184, 416)}
    for size, (values, tensors) in counts.items():
        shapes = published(*SIZES[size])
        assert (sum(torch.Size(shape).numel() for shape in shapes.values()), len(shapes)) == (values, tensors)
    for shapes in (published(192, 24), published_images(192, 24), published_unmasking(576, 32)):
        assert [family.name for family in families() if family.matches(shapes)] == ["VideoMamba"]


def test_operations_are_those_computed_by_hand() -> None:
    """224 GFLOP of matrix products and 33 GFLOP of scans for 16 frames in the middle size."""
    with torch.device("meta"):
        backbone = VideoMambaSpec(frames=16).build()
        macs = count_flops(lambda: backbone(torch.empty(1, 3, 16, 224, 224))) / 2
    assert macs == pytest.approx(224e9 + 33e9 / 2, rel=0.03)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected size to be a multiple of patch, found size 20 and patch 16"):
        VideoMambaSpec(size=20)
    assert (VideoMambaSpec().size_step, VideoMambaSpec().frame_step) == (16, 1)


def test_causal_convolution_equals_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    convolution = CausalConvolution(6, 4)
    inputs_BLE = torch.randn(2, 9, 6)
    expected = functional.silu(functional.conv1d(inputs_BLE.mT, convolution.weight, convolution.bias, 1, 3, 1, 6)).mT
    torch.testing.assert_close(convolution(inputs_BLE), expected[:, :9])

    def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):  # type: ignore[no-untyped-def]
        assert weight.shape == (6, 4) and activation == "silu"
        padded = functional.conv1d(x, weight[:, None], bias, padding=3, groups=6)
        return functional.silu(padded[..., : x.shape[-1]])

    package = ModuleType("causal_conv1d")
    vars(package).update(causal_conv1d_fn=causal_conv1d_fn)
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    mamba_kernels._found.cache_clear()
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(videomamba_model, "convolution_kernel", lambda device: mamba_kernels.convolution_kernel(gpu))
    on_gpu = convolution(inputs_BLE)
    mamba_kernels._found.cache_clear()
    torch.testing.assert_close(on_gpu, expected[:, :9])
