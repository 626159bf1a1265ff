"""TimeSformer equals an independent implementation, forward and backward, and a reference written out in loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import TimesformerModel

from pretrain.backbone import Tokens
from pretrain.backbones.build import build_backbone
from pretrain.backbones.specs import TimeSformerSpec
from pretrain.backbones.timesformer import TimeSformer
from tests.pretrain.backbones.hugging_face_timesformer import hugging_face_name, hugging_face_twin, tokens_of

SMALL = TimeSformerSpec(dim=24, depth=3, heads=3, mlp_ratio=2.0, patch=4, frames=3, size=12, drop_path=0.0)
ATTENTIONS = ("divided", "joint", "space")


def small(**changes: object) -> TimeSformerSpec:
    if changes.get("attention") == "space":
        changes = {"positions": "space"} | changes
    return TimeSformerSpec.model_validate(SMALL.model_dump() | changes)


def with_random_weights(spec: TimeSformerSpec, seed: int = 0) -> TimeSformer:
    """Give a backbone none of whose parameters is zero or one by design."""
    torch.manual_seed(seed)
    backbone = build_backbone(spec)
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
def test_what_stochastic_depth_drops_is_what_hugging_face_drops(attention: str) -> None:
    ours = with_random_weights(small(attention=attention, drop_path=0.6)).train()
    theirs = hugging_face_twin(ours).train()
    compare(ours, theirs, clip(SMALL, 4))


def compare(ours: TimeSformer, theirs: TimesformerModel, frames_BCTHW: Tensor) -> None:
    """Compare outputs, and gradients by the input and by every parameter, of models with the same weights and draws."""
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
    for one, other in zip(mine, yours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)
