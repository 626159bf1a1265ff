"""Counts what a published size holds and what a view of it costs, on tensors that have shapes and no memory."""

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
    """Figures of one size."""

    parameters: int
    macs: int  # multiplications with an addition, of one view


class _NothingDrawn(TorchFunctionMode):
    """Leaves out what would fill tensors, which takes most of the time of building where they hold nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        fills = name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor)
        return args[0] if fills else func(*args, **(kwargs or {}))


def on_meta(size: Size) -> Encoder:
    """Build a published size out of shapes alone."""
    with torch.device("meta"), _NothingDrawn():
        return size.spec.build().eval()


def count(size: Size) -> Count:
    """Count parameters, and the arithmetic of a view as published: products of matrices, convolutions, attention."""
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
    """Runs one of several like blocks and answers for the others: shapes are all that there is of their answers."""

    def __init__(self) -> None:
        self.flops = 0  # of what was not run
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
    """Make what one view is to a backbone: a clip, or a spectrogram."""
    return torch.empty(1, *size.spec.input_shape, device="meta")
