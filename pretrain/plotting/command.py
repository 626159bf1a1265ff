"""The command `trichord plot`: curves of one or several runs, as an image or an HTML page."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures

_PICTURES, _PAGES = (".png", ".svg"), (".html",)


def _out(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in _PICTURES + _PAGES:
        raise ArgumentTypeError(f"found {text!r}, expected a file that ends in .png, .svg or .html")
    return path


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, finished or still running")
    parser.add_argument(
        "--out", type=_out, metavar="FILE", help="a .png, .svg or .html file (default: curves.html in the first RUN)"
    )
    parser.add_argument("--figures", metavar="NAME,NAME", help="such as loss,lr,health/* (default: all that vary)")
    parser.add_argument(
        "--smooth", type=at_least(1), metavar="N", help="average over N log lines (default: 1/30 of a run's)"
    )
    parser.add_argument("--x", choices=("step", "samples", "hours"), default="step", help="the quantity on the x axis")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.plotting.series import choose_panels, load_runs

    runs = load_runs(arguments.runs)
    wanted = [name.strip() for name in arguments.figures.split(",") if name.strip()] if arguments.figures else None
    panels = choose_panels(runs, wanted, arguments.x)
    out = arguments.out
    if out is None:
        first = arguments.runs[0]
        out = (first if first.is_dir() else first.parent) / "curves.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() in _PAGES:
        from trichord.pretrain.plotting.page import draw_page

        draw_page(out, runs, panels, arguments.x, arguments.smooth)
    else:
        from trichord.pretrain.plotting.picture import draw_picture

        draw_picture(out, runs, panels, arguments.x, arguments.smooth)
    rows = [
        {
            "run": run.name,
            "log_lines": len(run.axis("step")),
            "last_step": int(run.axis("step")[-1]),
            "hours": round(float(run.axis("hours")[-1]), 2),
            "loss": run.last("loss"),
        }
        for run in runs
    ]
    show_figures(f"{len(panels)} figure{'' if len(panels) == 1 else 's'} drawn: {out}", rows, arguments.json)
    return 0


PLOT = Command(
    "plot",
    "draw curves of one or several runs as PNG, SVG or an HTML page",
    _declare,
    _run,
    (
        "trichord plot runs/svt",
        "trichord plot runs/svt runs/svt-small --out curves.png --figures 'loss,lr,health/*' --smooth 20",
        "trichord plot runs/* --out curves.html --x hours",
    ),
)
