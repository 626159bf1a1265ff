"""The published sizes, with the parameters and the cost of a view of each, counted on meta tensors without memory."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trichord.core.command import unknown_name
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.backbones.spec import Size
from trichord.pretrain.engine.rehearsal import count_flops


@dataclass(frozen=True)
class Count:
    """The counts of one size."""

    parameters: int
    macs: int  # multiply-adds of one view


_TITLE = "published sizes, without their classifiers; a MAC is a multiply-add: 2 FLOPs"


def run_models(arguments: Namespace) -> int:
    """Print the table of published sizes."""
    rows, sizes = list_models(arguments.name), published_sizes()
    if arguments.markdown:
        print(as_markdown(rows))
    else:
        show_figures(_TITLE, rows, arguments.json)
        if arguments.name in sizes and not arguments.json:
            print(f"In a recipe: {' '.join(sizes[arguments.name].settings)}")
    return 0


def list_models(wanted: str | None = None) -> list[dict[str, object]]:
    """Return a row of figures for each size: of all sizes, of one family or of one size. The figures are computed."""
    sizes = published_sizes()
    families = list(dict.fromkeys(size.spec.kind for size in sizes.values()))
    if wanted is not None and wanted not in (*families, *sizes):
        raise UserError(unknown_name("no family or size", wanted, [*families, *sizes]))
    rows: list[dict[str, object]] = []
    for name, size in sizes.items():
        if wanted in (None, name, size.spec.kind):
            counted = count(size)
            rows.append(
                {
                    "name": name,
                    "family": size.spec.kind,
                    "parameters": counted.parameters,
                    "MACs per view, G": round(counted.macs / 1e9, 1),
                    "input": size.spec.input_words,
                    "weights": size.weights,
                }
            )
    return rows


def as_markdown(rows: list[dict[str, object]]) -> str:
    """Format the rows as the Markdown table of docs/models.md."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    backbone.count_as_published()
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
