"""Each kind of frame fusion equals a naive implementation, and uses the frames that the paper specifies."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.pretrain.backbones.naive_frame_fusion import naive_pooled
from trichord.pretrain.backbones.frame_fusion import FrameFusionSpec
from trichord.pretrain.backbones.frame_fusion.model import FrameFusion

SMALL = FrameFusionSpec(widths=(6, 8, 8, 8, 8), dim=16, size=44)
FUSIONS = ("single", "early", "late", "slow")
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def small(fusion: str, **changes: object) -> FrameFusion:
    torch.manual_seed(0)
    spec = FrameFusionSpec.model_validate(SMALL.model_dump() | {"fusion": fusion} | changes)
    backbone = spec.build()
    assert isinstance(backbone, FrameFusion)
    return backbone


def clip(frames: int = 10, rows: int = 44, columns: int = 44) -> Tensor:
    return torch.randn(2, 3, frames, rows, columns, generator=torch.Generator().manual_seed(1))


@each_fusion
@pytest.mark.parametrize("frames", [10, 20])
def test_it_equals_a_naive_implementation_of_the_paper(fusion: str, frames: int) -> None:
    backbone = small(fusion).eval()
    frames_BCTHW = clip(frames, 62, 44).requires_grad_()
    pooled_BD = backbone(frames_BCTHW).pooled_BD
    expected_BD = torch.stack([naive_pooled(backbone, frames_CTHW) for frames_CTHW in frames_BCTHW])
    torch.testing.assert_close(pooled_BD, expected_BD, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(each.sum(), frames_BCTHW)[0] for each in (pooled_BD, expected_BD)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("fusion", "steps"), [("single", 10), ("early", 1), ("late", 1), ("slow", 1)])
def test_grid_is_the_last_feature_map(fusion: str, steps: int) -> None:
    backbone = small(fusion).eval()
    whole, alone = backbone(clip(10, 80, 62)), backbone(clip(10, 80, 62), pooled_only=True)
    assert (whole.grid_BtnD.shape, alone.grid_BtnD.shape) == ((2, steps, 3 * 2, 16), (2, steps, 0, 16))
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD)


@each_fusion
def test_which_frames_matter(fusion: str) -> None:
    frames_BCTHW = clip().requires_grad_()
    small(fusion).eval()(frames_BCTHW).pooled_BD.sum().backward()
    assert frames_BCTHW.grad is not None
    seen = [frame for frame in range(10) if frames_BCTHW.grad[:, :, frame].any()]
    assert seen == ([0, 9] if fusion == "late" else list(range(10)))


@each_fusion
def test_activation_checkpointing_keeps_gradients(fusion: str) -> None:
    results = []
    for forgets in (False, True):
        backbone = small(fusion, activation_checkpointing=forgets).train()
        torch.manual_seed(6)
        pooled_BD = backbone(clip()).pooled_BD
        results.append(torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@each_fusion
def test_it_compiles_to_one_graph_and_bf16_is_close_to_fp32(fusion: str) -> None:
    backbone = small(fusion).eval()
    exact_BD = backbone(clip()).pooled_BD
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip()).pooled_BD, exact_BD)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BD = backbone(clip()).pooled_BD
    assert torch.nn.functional.cosine_similarity(rounded_BD.float(), exact_BD).min() > 0.99


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="fusion 'slow' needs at least 10 frames, found 8"):
        FrameFusionSpec(fusion="slow", frames=8)
    with pytest.raises(ValueError, match="slow fusion needs at least 10 frames, found 9"):
        small("slow")(clip(9))
    with pytest.raises(ValueError, match="early fusion takes 10 frames at a time, found 12"):
        small("early")(clip(12))


def test_layers_are_numbered_from_the_first_convolution_to_the_last_layer() -> None:
    backbone = small("slow")
    found = [backbone.layer_of(name) for name, _ in backbone.named_parameters()]
    assert found == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 7, 7, 8, 8]
    assert backbone.layers == 9
