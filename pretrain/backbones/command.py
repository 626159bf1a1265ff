"""`trichord models`: all published sizes by name, with parameters, cost of a view and released weights.

For a single size, it also prints the recipe settings that select it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trichord.core.command import Command, add_json, unknown_name
from trichord.core.console import show_figures
from trichord.core.errors import UserError

_TITLE = "published sizes, without their classifiers; a MAC is a multiply-add: 2 FLOPs"


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a family or a size (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown, as in the README")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.backbones.registry import published_sizes

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
    from trichord.pretrain.backbones.counting import count
    from trichord.pretrain.backbones.registry import published_sizes

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
    """Format the rows as a Markdown table for the README."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


MODELS = Command(
    "models",
    "list the published sizes: parameters, MACs per view, input, released weights",
    _declare,
    _run,
    ("trichord models", "trichord models vivit --json", "trichord models videomamba-small-16"),
)
