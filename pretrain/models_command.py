"""`trichord models`: every published size by name, with its parameters, what a view costs and whose weights fit it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from shards.command import Command, add_json, unknown_name
from shards.console import show_figures
from shards.errors import UserError

_TITLE = "published sizes, without their classifiers; a MAC is a multiplication with an addition: 2 FLOPs"


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="list the sizes of this family (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the table as the README has it")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    rows = list_models(arguments.family)
    if arguments.markdown:
        print(as_markdown(rows))
    else:
        show_figures(_TITLE, rows, arguments.json)
    return 0


def list_models(family: str | None = None) -> list[dict[str, object]]:
    """Give a row of figures for each size, counted now."""
    from pretrain.backbones.counting import count
    from pretrain.backbones.presets import PRESETS

    families = list(dict.fromkeys(preset.spec.kind for preset in PRESETS.values()))
    if family is not None and family not in families:
        raise UserError(unknown_name("no family", family, families))
    rows: list[dict[str, object]] = []
    for name, preset in PRESETS.items():
        if family in (None, preset.spec.kind):
            counted = count(preset)
            rows.append(
                {
                    "name": name,
                    "family": preset.spec.kind,
                    "parameters": counted.parameters,
                    "MACs per view, G": round(counted.macs / 1e9, 1),
                    "input": preset.input,
                    "weights": preset.weights,
                }
            )
    return rows


def as_markdown(rows: list[dict[str, object]]) -> str:
    """Write the rows as a table for the README."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


MODELS = Command(
    "models",
    "list the published sizes: parameters, MACs per view, input, whose weights fit",
    _declare,
    _run,
    ("trichord models", "trichord models vivit --json"),
)
