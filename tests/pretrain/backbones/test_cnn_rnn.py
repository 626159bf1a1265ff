"""The CNN-RNN equals its CNN followed by a GRU that is computed step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from trichord.core.errors import UserError
from trichord.pretrain.backbones.cnn_rnn import CnnRnnSpec
from trichord.pretrain.backbones.cnn_rnn.model import CnnRnn
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import families, load_tensors

SMALL = CnnRnnSpec(frame_backbone="resnet18", dim=8, depth=2, frames=3, size=32)


def small(**changes: object) -> CnnRnn:
    torch.manual_seed(0)
    backbone = CnnRnnSpec.model_validate(SMALL.model_dump() | changes).build()
    assert isinstance(backbone, CnnRnn)
    return backbone


def clip(frames: int = 3, size: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def naive_gru(weights: dict[str, Tensor], depth: int, seen_BTE: Tensor) -> Tensor:
    """The equations of Cho et al. step by step, with the bias of the reset gate as in torch; return known_BTD."""
    for layer in range(depth):
        into, past = weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"]
        into_bias, past_bias = weights[f"bias_ih_l{layer}"], weights[f"bias_hh_l{layer}"]
        known_BD, steps = seen_BTE.new_zeros(len(seen_BTE), past.shape[1]), []
        for seen_BE in seen_BTE.unbind(1):
            reset, update, new = (seen_BE @ into.T + into_bias).chunk(3, dim=1)
            past_reset, past_update, past_new = (known_BD @ past.T + past_bias).chunk(3, dim=1)
            kept_BD = (update + past_update).sigmoid()
            new_BD = (new + (reset + past_reset).sigmoid() * past_new).tanh()
            known_BD = kept_BD * known_BD + (1 - kept_BD) * new_BD
            steps.append(known_BD)
        seen_BTE = torch.stack(steps, dim=1)
    return seen_BTE


def test_it_equals_torchvision_s_resnet_and_a_naive_gru() -> None:
    torch.manual_seed(3)
    theirs = resnet18().eval()
    found = [each.name for each in families() if each.matches(theirs.state_dict())]
    assert found == ["ResNet of torchvision or timm"]
    ours = small().eval()
    init = InitFrom(path=Path("resnet.pth"), allow_missing=("*.recurrent.*",), allow_unused=("classifier.*",))
    file = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = load_tensors(file, init, ours)  # older files of torchvision have no num_batches_tracked
    assert sorted(found.unused) == ["classifier.bias", "classifier.weight"]
    theirs.fc = nn.Identity()
    frames_BCTHW = clip().requires_grad_()
    seen_BTE = torch.stack([theirs(frame_BCHW) for frame_BCHW in frames_BCTHW.unbind(2)], dim=1)
    expected_BTD = naive_gru(dict(ours.recurrent.named_parameters()), 2, seen_BTE)
    tokens = ours(frames_BCTHW)
    torch.testing.assert_close(tokens.grid_BtnD.squeeze(2), expected_BTD, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.pooled_BD, expected_BTD[:, -1], atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(each.sum(), frames_BCTHW)[0] for each in (tokens.grid_BtnD, expected_BTD)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["resnet18", "mobilenetv3_small_050"])
def test_it_accepts_other_frames_sizes_and_networks(network: str) -> None:
    backbone = small(frame_backbone=network).eval()
    whole, alone = backbone(clip(5, 64)), backbone(clip(5, 64), pooled_only=True)
    assert (whole.grid_BtnD.shape, alone.grid_BtnD.shape) == ((2, 5, 1, 8), (2, 5, 0, 8))
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD)
    layers = {backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert max(layers) == backbone.layers - 1 and min(layers) == 0


def test_activation_checkpointing_keeps_gradients_and_running_means_and_bf16_is_close() -> None:
    results = []
    for forgets in (False, True):
        backbone = small(activation_checkpointing=forgets).train()
        pooled_BD = backbone(clip()).pooled_BD
        gradients = torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters()))
        results.append([*gradients, *backbone.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    backbone = small().eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BD = backbone(clip()).pooled_BD
    assert torch.nn.functional.cosine_similarity(rounded_BD.float(), backbone(clip()).pooled_BD).min() > 0.99


def test_network_unknown_to_timm_is_an_error() -> None:
    with pytest.raises(UserError, match=r"timm has no backbone\.frame_backbone .*resnet_50"):
        small(frame_backbone="resnet_50")
