"""R(2+1)D and R3D equal torchvision's, forward and backward, with weights from a torchvision file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18, r3d_18

from trichord.pretrain.backbones.resnet_3d import Resnet3dSpec
from trichord.pretrain.backbones.resnet_3d.model import Resnet3d
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import families, load_tensors

SMALL = Resnet3dSpec(width=8, frames=4, size=32)
FILE = InitFrom(path=Path("weights.pth"), allow_unused=("classifier.*",))
both = pytest.mark.parametrize("convolutions", ["2plus1d", "3d"])


def small(**changes: object) -> Resnet3d:
    torch.manual_seed(0)
    backbone = Resnet3dSpec.model_validate(SMALL.model_dump() | changes).build()
    assert isinstance(backbone, Resnet3d)
    return backbone


def clip(frames: int = 4, rows: int = 32, columns: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, rows, columns, generator=torch.Generator().manual_seed(1))


@both
def test_it_equals_torchvision(convolutions: str) -> None:
    torch.manual_seed(0)
    theirs = {"2plus1d": r2plus1d_18, "3d": r3d_18}[convolutions](num_classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    family = {"2plus1d": "R(2+1)D of torchvision", "3d": "R3D of torchvision"}[convolutions]
    assert [each.name for each in families() if each.matches(theirs.state_dict())] == [family]
    ours = small(convolutions=convolutions, width=64).eval()
    found = load_tensors(theirs.state_dict(), FILE, ours)
    assert (found.missing, found.unused) == ([], ["classifier.weight", "classifier.bias"])
    frames_BCTHW = clip().requires_grad_()
    expected_BD = nn.Sequential(*theirs.children())[:-1](frames_BCTHW).flatten(1)
    pooled_BD = ours(frames_BCTHW).pooled_BD
    torch.testing.assert_close(pooled_BD, expected_BD, atol=1e-5, rtol=0)
    direction_BD = torch.randn_like(pooled_BD)
    gradients = [torch.autograd.grad(each, frames_BCTHW, direction_BD)[0] for each in (pooled_BD, expected_BD)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@both
def test_published_sizes_have_the_documented_number_of_parameters(convolutions: str) -> None:
    with torch.device("meta"):
        backbone = Resnet3dSpec.model_validate({"convolutions": convolutions}).build()
    documented = {"2plus1d": 31_505_325, "3d": 33_371_472}[convolutions]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == documented - 400 * 513


@both
def test_grid_is_the_last_feature_map_for_any_input(convolutions: str) -> None:
    backbone = small(convolutions=convolutions).eval()
    frames_BCTHW = clip(frames=9, rows=64, columns=40)
    whole, alone = backbone(frames_BCTHW), backbone(frames_BCTHW, pooled_only=True)
    assert (whole.grid_BtnD.shape, alone.grid_BtnD.shape) == ((2, 2, 4 * 3, 64), (2, 2, 0, 64))
    torch.testing.assert_close(whole.pooled_BD, whole.grid_BtnD.mean(dim=(1, 2)))
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD)


@both
def test_activation_checkpointing_keeps_gradients_and_running_means(convolutions: str) -> None:
    results = []
    for forgets in (False, True):
        backbone = small(convolutions=convolutions, drop_path=0.5, activation_checkpointing=forgets).train()
        torch.manual_seed(6)
        pooled_BD = backbone(clip(), pooled_only=True).pooled_BD
        gradients = torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters()))
        results.append([*gradients, *backbone.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@both
def test_it_compiles_to_one_graph_and_bf16_is_close_to_fp32(convolutions: str) -> None:
    backbone = small(convolutions=convolutions).eval()
    exact_BD = backbone(clip()).pooled_BD
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip()).pooled_BD, exact_BD)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BD = backbone(clip()).pooled_BD
    assert torch.nn.functional.cosine_similarity(rounded_BD.float(), exact_BD).min() > 0.99


def test_layers_are_numbered_from_the_stem_to_the_last_block() -> None:
    backbone = small()
    found = [backbone.layer_of(name) for name, _ in backbone.named_parameters()]
    assert found == sorted(found) and set(found) == set(range(9))
    assert backbone.layers == 10
