"""Counts the parameters of a published size and the cost of one view, on meta tensors, which use no memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.backbones.spec import Size
from trichord.pretrain.backbones.timesformer.model import DividedBlock
from trichord.pretrain.engine.flops import count_flops


@dataclass(frozen=True)
class Count:
    """The counts of one size."""

    parameters: int
    macs: int  # multiply-adds of one view


class _SkipFills(TorchFunctionMode):
    """Skips in-place operations, which fill tensors: on meta tensors they take most of the time of construction."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        fills = name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor)
        return args[0] if fills else func(*args, **(kwargs or {}))


def on_meta(size: Size) -> Encoder:
    """Build a published size on the meta device, without memory for its weights."""
    with torch.device("meta"), _SkipFills():
        return size.spec.build().eval()


def count(size: Size) -> Count:
    """Count parameters and the multiply-adds of a view, as papers do: matrix products, convolutions and attention."""
    backbone = on_meta(size)
    for module in backbone.modules():
        if isinstance(module, DividedBlock):
            module.joins_maps = False
    repeats = _Repeats()
    for blocks in backbone.modules():
        if isinstance(blocks, nn.ModuleList | nn.Sequential):
            for block in blocks:
                block.forward = partial(repeats.forward, block, block.forward)
    with torch.no_grad():
        flops = count_flops(lambda: backbone(view(size)))
    return Count(sum(each.numel() for each in backbone.parameters()), (flops + repeats.flops) // 2)


class _Repeats:
    """Runs one of several identical blocks and reuses its output for the others: meta tensors consist of shapes."""

    def __init__(self) -> None:
        self.flops = 0  # of the blocks that were not run
        self._seen: dict[object, tuple[Any, int]] = {}

    def forward(self, block: nn.Module, run: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        made_of = tuple((name, each.shape) for name, each in block.named_parameters())
        given = tuple(each.shape if isinstance(each, Tensor) else each for each in (*arguments, *named.values()))
        alike = (type(block), made_of, given)
        if alike in self._seen:
            answer, flops = self._seen[alike]
            self.flops += flops
            return answer
        before, answers = self.flops, []
        flops = count_flops(lambda: answers.append(run(*arguments, **named)))
        self._seen[alike] = answers[0], flops + self.flops - before
        return answers[0]


def view(size: Size) -> Tensor:
    """Return an input of one view on the meta device: a clip or a spectrogram."""
    return torch.empty(1, *size.spec.input_shape, device="meta")
