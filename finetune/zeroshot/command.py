"""`trichord zeroshot`: classify videos with texts only, or test that on shard sets and print tables of figures."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trichord.core.command import Command, add_json, at_least, read_pairs, share
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.zeroshot.prompts import PROMPTS, templates_of

if TYPE_CHECKING:
    from trichord.finetune.zeroshot.evaluate import Question
    from trichord.finetune.zeroshot.opening import Opened
    from trichord.finetune.zeroshot.spec import ZeroShotSpec

_RUNS = Path("runs")
_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_OF_TESTS = ("classes", "draws", "new_to", "wise_from", "name", "out", "cache")


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("videos", nargs="*", type=Path, metavar="CLIP", help="video files to classify by --labels")
    parser.add_argument("--labels", metavar="TEXT,TEXT", help="candidate labels; or a file with one on each line")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="SHARDS", help="shard sets to test on, such as three splits"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="RUN_OR_FILE",
        help="model (default: the newest run of video_text below runs/)",
    )
    parser.add_argument("--part", metavar="NAME", help="part to load from a file that holds several")
    parser.add_argument(
        "--backbone",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings not implied by a file's shapes, such as activation=gelu for most open_clip models",
    )
    words = parser.add_argument_group("words and views")
    words.add_argument(
        "--prompts", type=_prompts, default="bare", metavar="SET", help=f"{', '.join(PROMPTS)}, or a text with {{}}"
    )
    words.add_argument(
        "--ensemble", choices=("embedding", "probability"), default="embedding", help="quantity averaged over prompts"
    )
    words.add_argument(
        "--names-as",
        choices=("words", "given"),
        default="words",
        help="split names such as ApplyEyeMakeup, or keep them as given",
    )
    words.add_argument(
        "--views",
        type=_pair((1, 3), "clips and crops, 1 or 3, such as 4x3"),
        default="1x1",
        metavar="NxM",
        help="number of clips, and of crops of each clip",
    )
    words.add_argument(
        "--average", choices=("probability", "logit"), default="probability", help="quantity averaged over views"
    )
    words.add_argument("--frames", type=at_least(1), metavar="N", help="frames per clip (default: as in training)")
    _declare_test(parser.add_argument_group("with --data"))
    add_json(parser)


def _declare_test(tests: Any) -> None:
    tests.add_argument(
        "--classes",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="test among only these classes, one list after another",
    )
    tests.add_argument(
        "--draws",
        type=_pair(None, "draws and classes of each, such as 3x160"),
        metavar="DRAWSxCLASSES",
        help="test among random draws of classes",
    )
    tests.add_argument(
        "--new-to", type=Path, metavar="SHARDS_OR_FILE", help="exclude classes of this set, which were trained on"
    )
    tests.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="random seed of --draws")
    tests.add_argument("--wise-from", type=Path, metavar="RUN_OR_FILE", help="weights before fine-tuning: WiSE-FT")
    tests.add_argument(
        "--alphas",
        nargs="+",
        type=share,
        default=_ALPHAS,
        metavar="ALPHA",
        help="positions between --wise-from (0) and --weights (1)",
    )
    tests.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch on each rank")
    tests.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="reader processes per rank")
    tests.add_argument("--cache", type=Path, metavar="DIR", help="cache folder for remote shards")
    tests.add_argument("--name", metavar="NAME", help="file name of reports (default: prompts, views and set folders)")
    tests.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for evaluations/ (default: the run; none for a file)",
    )


def _run(arguments: Namespace) -> int:
    if bool(arguments.videos) == bool(arguments.data):
        raise UserError(
            'expected video files, as in trichord zeroshot CLIP.mp4 --labels "opening a box,holding a book", or '
            "shard sets with --data SHARDS, but not both"
        )
    return _classify(arguments) if arguments.videos else _test(arguments)


def _classify(arguments: Namespace) -> int:
    from trichord.finetune.zeroshot import open_model

    if ignored := [f"--{name.replace('_', '-')}" for name in _OF_TESTS if getattr(arguments, name)]:
        raise UserError(f"{', '.join(ignored)}: only for tests with --data, not for video files")
    labels, source, spec = _labels(arguments.labels), _weights(arguments), _spec(arguments)
    model = open_model(source, part=arguments.part, backbone=read_pairs("--backbone", arguments.backbone))
    rows = [
        {"video": str(video), "label": label, "probability": probability}
        for video in arguments.videos
        for label, probability in model.zeroshot(video, labels, **dict(spec)).items()
    ]
    _show(source, model.opened, spec, rows, arguments.json)
    return 0


def _labels(text: str | None) -> list[str]:
    from trichord.finetune.zeroshot.candidates import read_names

    if text and Path(text).exists():
        return read_names(Path(text))
    labels = [label.strip() for label in (text or "").split(",") if label.strip()]
    if not labels:
        raise UserError('--labels is missing: list what the videos may show, as in --labels "opening a box,jumping"')
    return labels


def _test(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    import torch

    from trichord.finetune.zeroshot.classifier import Recogniser
    from trichord.finetune.zeroshot.evaluate import Line, answer, table, write_reports
    from trichord.finetune.zeroshot.opening import open_video_text
    from trichord.pretrain.engine.allocator import thread_plan
    from trichord.pretrain.engine.distributed import join_world, leave_world

    if arguments.labels:
        raise UserError("--labels is for video files; a shard set has its own class names: select with --classes")
    source, spec, question = _weights(arguments), _spec(arguments), _question(arguments)
    world = join_world()
    torch.set_num_threads(thread_plan(world.place.local_size))
    backbone = read_pairs("--backbone", arguments.backbone)
    opened = open_video_text(source, arguments.part, backbone)
    zero_shot = open_video_text(arguments.wise_from) if arguments.wise_from else None
    recogniser = Recogniser(opened, world.device)
    answers = answer(Line(recogniser, zero_shot, arguments.alphas), spec, question, world)
    if world.rank == 0:
        about = _about(arguments, source, opened, spec)
        folder = arguments.out or (source if opened.about["step"] is not None else None)
        written = write_reports(folder, _name(arguments, spec, opened), about, answers) if folder else []
        _show(source, opened, spec, table(answers), arguments.json)
        if written and not arguments.json:
            print(f"written: {', '.join(map(str, written))}")
    leave_world()
    return 0


def _show(source: Path, opened: Opened, spec: ZeroShotSpec, rows: list[dict[str, object]], as_json: bool) -> None:
    """Print a table together with the prompts and views that it depends on."""
    conditions = f"{spec.words(opened.model.has_prompts)}; {opened.look.words(spec)}"
    show_figures(f"zero-shot by {source}" + (f": {conditions}" if as_json else ""), rows, as_json)
    if not as_json:
        print(conditions)


def _about(arguments: Namespace, source: Path, opened: Opened, spec: ZeroShotSpec) -> dict[str, object]:
    """Return what was tested, in the format of reports of heads."""
    between = f"between {arguments.wise_from} and it" if arguments.wise_from else "nothing"
    return {
        "run": str(source),
        "step": opened.about["step"],
        "data": list(arguments.data),
        "model": {
            "inputs": "video + text",
            "backbone": opened.about["backbone"],
            "pretrained": opened.about["pretrained"],
            "head": f"zero-shot, {spec.words(opened.model.has_prompts)}",
            "trained": between,
            "seed": opened.about["seed"],
        },
        "views": opened.look.words(spec),
    }


def _name(arguments: Namespace, spec: ZeroShotSpec, opened: Opened) -> str:
    words = spec.prompts if spec.prompts in PROMPTS else "own"
    sets = "+".join(Path(root.rstrip("/")).name for root in arguments.data)
    name = arguments.name or f"zeroshot_{words}_{spec.clips}x{spec.crops}_{sets}"
    return name if opened.about["step"] is None else f"{name}_step_{opened.about['step']:08d}"


def _weights(arguments: Namespace) -> Path:
    from trichord.finetune.recipe import read_run

    if arguments.weights:
        return Path(arguments.weights)
    runs = [
        run for run in _RUNS.glob("*") if RunFolder(run).is_run and read_run(run)["objective"]["kind"] == "video_text"
    ]
    if not runs:
        raise UserError(f"--weights RUN_OR_FILE is missing, and there is no run of video_text below {_RUNS}/")
    return max(runs, key=lambda run: RunFolder(run).checkpoints.stat().st_mtime)


def _spec(arguments: Namespace) -> ZeroShotSpec:
    from trichord.finetune.zeroshot.spec import ZeroShotSpec

    clips, crops = arguments.views
    names = ("prompts", "ensemble", "names_as", "average", "frames")
    return ZeroShotSpec(clips=clips, crops=crops, **{name: getattr(arguments, name) for name in names})


def _question(arguments: Namespace) -> Question:
    from trichord.finetune.zeroshot.candidates import Draws
    from trichord.finetune.zeroshot.evaluate import Question

    if arguments.draws and arguments.classes:
        raise UserError("--draws and --classes both select the candidate classes; give only one of them")
    draws = Draws(arguments.draws[0], arguments.draws[1], arguments.seed) if arguments.draws else None
    names = ("batch_size", "workers", "cache")
    rest = {name: getattr(arguments, name) for name in names}
    return Question(tuple(arguments.data), tuple(arguments.classes), draws, arguments.new_to, **rest)


def _prompts(text: str) -> str:
    try:
        templates_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def _pair(allowed: tuple[int, ...] | None, expected: str) -> Callable[[str], tuple[int, int]]:
    """Return an argument type for two numbers with an x between them."""

    def read(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if found is None or (allowed and int(found[2]) not in allowed):
            raise ArgumentTypeError(f"found {text!r}, expected {expected}")
        return int(found[1]), int(found[2])

    return read


ZEROSHOT = Command(
    "zeroshot",
    "classify videos with texts only, or test that on shards",
    _declare,
    _run,
    (
        'trichord zeroshot clip.mp4 --labels "opening a box,holding a book" --weights runs/video_text',
        "trichord zeroshot --data hmdb51/split1 hmdb51/split2 hmdb51/split3 --weights k400_16_8.pth",
        "trichord zeroshot --data ucf101/test --weights clip.safetensors --prompts openai_ucf101 --views 4x3",
        "trichord zeroshot --data k600/val --weights runs/xclip --new-to k400/train --draws 3x160",
        "trichord zeroshot --data k400/val --weights runs/tuned --wise-from clip.safetensors --alphas 0 0.5 1",
    ),
)
