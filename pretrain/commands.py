"""The pretraining commands: pretrain, show a recipe, plot, replay a failed step, export; models and weight files."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from trichord.core.command import Command, add_json, at_least

CURVES = (".png", ".svg", ".html")  # formats of `plot`


def declare_training(parser: ArgumentParser) -> None:
    """Declare the arguments of every command that trains a recipe."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name (`trichord show` lists them) or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe")
    parser.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="folder of the run; resumes if it holds checkpoints (default: runs/RECIPE)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print sizes, memory, steps and hours without training")
    parser.add_argument(
        "--as-ranks", type=at_least(1), default=1, metavar="N", help="number of ranks assumed in a dry run"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="device assumed in a dry run, such as h200 (default: this machine's)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="X", help="share of the device's peak FLOP/s assumed in a dry run"
    )
    parser.add_argument("--like", type=Path, metavar="RUN", help="use the clips/s measured by this run in a dry run")
    add_json(parser)


def _declare_show(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe's name or its file (default: list them)")
    words = "A.B=C changes a value of the recipe; A.B explains a setting, also without a RECIPE"
    parser.add_argument("settings", nargs="*", metavar="A.B[=C]", help=words)
    add_json(parser)


def _curves_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in CURVES:
        raise ArgumentTypeError(f"found {text!r}, expected a file that ends in .png, .svg or .html")
    return path


def _declare_plot(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, finished or still running")
    where = "a .png, .svg or .html file (default: curves.html in the first RUN)"
    parser.add_argument("--out", type=_curves_file, metavar="FILE", help=where)
    parser.add_argument(
        "--figures", metavar="NAME,NAME", help="curves to draw, such as loss,lr,health/* (default: all that vary)"
    )
    parser.add_argument(
        "--smooth", type=at_least(1), metavar="N", help="average over N log lines (default: 1/30 of a run's)"
    )
    parser.add_argument("--x", choices=("step", "samples", "hours"), default="step", help="the quantity on the x axis")
    add_json(parser)


def _declare_replay(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run that stopped at a failed step")
    parser.add_argument("--step", type=at_least(0), metavar="N", help="failed step to replay (default: the newest)")
    parser.add_argument(
        "--rank", type=at_least(0), metavar="R", help="rank whose samples to replay (default: the first that failed)"
    )
    add_json(parser)


def _declare_export(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="folder of a run, whose newest complete checkpoint is exported"
    )
    parser.add_argument("--format", choices=("safetensors", "hf"), default="safetensors", help="format of the weights")
    parser.add_argument(
        "--part", metavar="NAME", help="network to export (default: the one that the objective trains for later use)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="file, or folder for hf (default: in the folder of the run)"
    )
    add_json(parser)


def _declare_models(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a family or a size (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown, as in docs/models.md")
    add_json(parser)


def _declare_inspect(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a .safetensors, .pth, .pyth, .pt or .bin file, or a Hugging Face folder",
    )
    parser.add_argument(
        "--part", metavar="NAME", help="network to look at in a file that holds several, such as student"
    )
    add_json(parser)


PRETRAIN = Command(
    "pretrain",
    "pretrain a recipe, resuming from the checkpoints in the run folder",
    declare_training,
    "trichord.pretrain.job:run_pretrain",
    (
        "trichord pretrain svt_quickstart data.sources=shards/train --run runs/first",
        "torchrun --nproc-per-node 8 -m trichord -- pretrain svt_paper data.sources=k400/train init_from=null",
        "trichord pretrain svt_paper data.sources=k400/train init_from=null --dry-run --as-ranks 32 --device h200",
    ),
    "trichord.pretrain.job:pretrain_job",
)
SHOW = Command(
    "show",
    "print every value of a recipe and its origin, or explain a setting",
    _declare_show,
    "trichord.pretrain.show:run_show",
    (
        "trichord show",
        "trichord show svt_paper",
        "trichord show objective.teacher_momentum",
        "trichord show svt_paper optimiser.weight_decay",
        "trichord show svt_paper data.sources=shards/train optimiser.learning_rate.start=1e-3 --json",
    ),
)
PLOT = Command(
    "plot",
    "draw curves of one or several runs as PNG, SVG or an HTML page",
    _declare_plot,
    "trichord.pretrain.plotting.series:run_plot",
    (
        "trichord plot runs/svt",
        "trichord plot runs/svt runs/svt-small --out curves.png --figures 'loss,lr,health/*' --smooth 20",
        "trichord plot runs/* --out curves.html --x hours",
    ),
)
REPLAY = Command(
    "replay",
    "repeat a failed step and show where values stop being finite",
    _declare_replay,
    "trichord.pretrain.engine.finite:run_replay",
    ("trichord replay runs/first",),
)
EXPORT = Command(
    "export",
    "export a run's weights and verify that they load",
    _declare_export,
    "trichord.pretrain.weights.export:run_export",
    ("trichord export runs/first", "trichord export runs/first --format hf --out exported"),
)
MODELS = Command(
    "models",
    "list the published sizes: parameters, MACs per view, input, released weights",
    _declare_models,
    "trichord.pretrain.backbones.counting:run_models",
    ("trichord models", "trichord models vivit --json", "trichord models videomamba-small-16"),
)
INSPECT = Command(
    "inspect",
    "show the family of a weight file, the sizes it fits and what does not fit",
    _declare_inspect,
    "trichord.pretrain.weights.report:run_inspect",
    ("trichord weights inspect kinetics400_vitb_ssl.pth", "trichord weights inspect model.safetensors --json"),
)
WEIGHTS_SUMMARY = "inspect weight files"
