"""Image networks for sound: on the whole spectrogram as on a grey image, and on slices as in VTN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from trichord.core.errors import UserError
from trichord.pretrain.backbones.audio_resnet import AudioResnetSpec
from trichord.pretrain.backbones.audio_vtn import AudioVtnSpec
from trichord.pretrain.backbones.base import AudioBackbone
from trichord.pretrain.backbones.spec import AudioBackboneSpec
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import load_tensors

RESNET = AudioResnetSpec(mels=40, frames=64)
VTN = AudioVtnSpec(mels=40, frames=64, depth=2, window=4, dropout=0.0)
# oneDNN with AMX reads uninitialised memory in strided bf16 convolutions of maps that are high and at most 2 wide, as
# the last ones of slices of 32 frames are (torch 2.13; docs/troubleshooting.md).
WIDE = AudioVtnSpec(mels=40, frames=96, slice_frames=64, slice_step=32, depth=2, window=4, dropout=0.0)
each_spec = pytest.mark.parametrize("spec", [RESNET, VTN], ids=["resnet", "vtn"])


def built(spec: AudioBackboneSpec, **changes: object) -> AudioBackbone:
    torch.manual_seed(0)
    return spec.model_copy(update=changes).build()


def sound(frames: int = 64, mels: int = 40) -> Tensor:
    return torch.randn(2, frames, mels, generator=torch.Generator().manual_seed(1))


def test_resnet_equals_torchvision_on_a_grey_image_with_its_weights() -> None:
    torch.manual_seed(2)
    theirs, ours = resnet18().eval(), built(RESNET).eval()
    found = load_tensors(theirs.state_dict(), InitFrom(path=Path("r.pth"), allow_unused=("classifier.*",)), ours)
    assert (found.missing, len(found.unused)) == ([], 2)
    theirs.fc = nn.Identity()
    audio_BTM = sound().requires_grad_()
    pooled_BD = ours(audio_BTM).pooled_BD
    expected_BD = theirs(audio_BTM.transpose(1, 2).unsqueeze(1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(pooled_BD, expected_BD, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(each.sum(), audio_BTM)[0] for each in (pooled_BD, expected_BD)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_vtn_treats_slices_like_frames() -> None:
    backbone = built(VTN).eval()
    audio_BTM = sound(70)
    slices = [audio_BTM[:, first : first + 32].transpose(1, 2) for first in (0, 16, 32)]
    expected = backbone.get_submodule("vtn")(torch.stack(slices, dim=1).unsqueeze(1))
    for one, other in zip(backbone(audio_BTM), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("spec", "grid"), [(RESNET, (3, 2)), (VTN, (5, 1))], ids=["resnet", "vtn"])
def test_it_accepts_other_lengths_and_filters(spec: AudioBackboneSpec, grid: tuple[int, int]) -> None:
    backbone = built(spec).eval()
    whole, alone = backbone(sound(96, 64)), backbone(sound(96, 64), pooled_only=True)
    assert (whole.grid_BtmD.shape, alone.grid_BtmD.shape) == ((2, *grid, 512), (2, grid[0], 0, 512))
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD)


@each_spec
def test_activation_checkpointing_keeps_gradients_and_running_means(
    spec: AudioBackboneSpec,
) -> None:
    results = []
    for forgets in (False, True):
        backbone = built(spec, activation_checkpointing=forgets).train()
        pooled_BD = backbone(sound()).pooled_BD
        gradients = torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters()))
        results.append([*gradients, *backbone.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spec", [RESNET, WIDE], ids=["resnet", "vtn"])
def test_bf16_is_close(spec: AudioBackboneSpec) -> None:
    backbone, audio_BTM = built(spec).eval(), sound(96)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BD = backbone(audio_BTM).pooled_BD
    assert nn.functional.cosine_similarity(rounded_BD.float(), backbone(audio_BTM).pooled_BD).min() > 0.99


@each_spec
def test_every_parameter_has_a_layer(spec: AudioBackboneSpec) -> None:
    backbone = built(spec)
    found = {backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert (min(found), max(found)) in ((0, backbone.layers - 1), (0, backbone.layers - 2))


def test_invalid_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="expected at least 32 frames, found 31"):
        built(VTN)(sound(31))
    with pytest.raises(UserError, match=r"timm has no audio network .*resnet_18"):
        built(RESNET, network="resnet_18")
