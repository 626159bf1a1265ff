"""The work of `trichord zeroshot`: classify video files, or test on shard sets and print tables of figures."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch

from trichord.core.command import read_pairs
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.recipe import read_run
from trichord.finetune.zeroshot.candidates import ClassDraws, read_names
from trichord.finetune.zeroshot.classifier import Recogniser
from trichord.finetune.zeroshot.evaluate import EvaluatedWeights, ZeroShotTest, evaluate, table, write_reports
from trichord.finetune.zeroshot.loading import TrainedVideoText, load_video_text
from trichord.finetune.zeroshot.prompts import PROMPTS
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.device import pick_device
from trichord.pretrain.engine.distributed import join_world, leave_world

_RUNS = Path("runs")
_OF_TESTS = ("classes", "draws", "new_to", "wise_from", "name", "out", "cache")


def run_zeroshot(arguments: Namespace) -> int:
    """Classify the video files of parsed arguments, or test on their shard sets."""
    if bool(arguments.videos) == bool(arguments.data):
        raise UserError(
            'expected video files, as in trichord zeroshot CLIP.mp4 --labels "opening a box,holding a book", or '
            "shard sets with --data SHARDS, but not both"
        )
    return _classify(arguments) if arguments.videos else _test(arguments)


def _classify(arguments: Namespace) -> int:
    if ignored := [f"--{name.replace('_', '-')}" for name in _OF_TESTS if getattr(arguments, name)]:
        raise UserError(f"{', '.join(ignored)}: only for tests with --data, not for video files")
    labels, source, spec = _labels(arguments.labels), _weights(arguments), _spec(arguments)
    opened = load_video_text(source, arguments.part, read_pairs("--backbone", arguments.backbone))
    recogniser = Recogniser(opened, pick_device(0))
    rows = [
        {"video": str(video), "label": label, "probability": probability}
        for video in arguments.videos
        for label, probability in recogniser.zeroshot(video, labels, **dict(spec)).items()
    ]
    _show(source, opened, spec, rows, arguments.json)
    return 0


def _labels(text: str | None) -> list[str]:
    if text and Path(text).exists():
        return read_names(Path(text))
    labels = [label.strip() for label in (text or "").split(",") if label.strip()]
    if not labels:
        raise UserError('--labels is missing: list what the videos may show, as in --labels "opening a box,jumping"')
    return labels


def _test(arguments: Namespace) -> int:
    if arguments.labels:
        raise UserError("--labels is for video files; a shard set has its own class names: select with --classes")
    source, spec, test = _weights(arguments), _spec(arguments), _test_of(arguments)
    world = join_world()
    torch.set_num_threads(thread_plan(world.placement.local_size))
    backbone = read_pairs("--backbone", arguments.backbone)
    opened = load_video_text(source, arguments.part, backbone)
    zero_shot = load_video_text(arguments.wise_from) if arguments.wise_from else None
    recogniser = Recogniser(opened, world.device)
    results = evaluate(EvaluatedWeights(recogniser, zero_shot, arguments.alphas), spec, test, world)
    if world.rank == 0:
        about = _about(arguments, source, opened, spec)
        folder = arguments.out or (source if opened.about["step"] is not None else None)
        written = write_reports(folder, _name(arguments, spec, opened), about, results) if folder else []
        _show(source, opened, spec, table(results), arguments.json)
        if written and not arguments.json:
            print(f"written: {', '.join(map(str, written))}")
    leave_world()
    return 0


def _show(
    source: Path, opened: TrainedVideoText, spec: ZeroShotSpec, rows: list[dict[str, object]], as_json: bool
) -> None:
    """Print a table together with the prompts and views that it depends on."""
    conditions = f"{spec.words(opened.model.has_prompts)}; {opened.transforms.words(spec)}"
    show_figures(f"zero-shot by {source}" + (f": {conditions}" if as_json else ""), rows, as_json)
    if not as_json:
        print(conditions)


def _about(arguments: Namespace, source: Path, opened: TrainedVideoText, spec: ZeroShotSpec) -> dict[str, object]:
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
        "views": opened.transforms.words(spec),
    }


def _name(arguments: Namespace, spec: ZeroShotSpec, opened: TrainedVideoText) -> str:
    words = spec.prompts if spec.prompts in PROMPTS else "own"
    sets = "+".join(Path(root.rstrip("/")).name for root in arguments.data)
    name = arguments.name or f"zeroshot_{words}_{spec.clips}x{spec.crops}_{sets}"
    return name if opened.about["step"] is None else f"{name}_step_{opened.about['step']:08d}"


def _weights(arguments: Namespace) -> Path:
    if arguments.weights:
        return Path(arguments.weights)
    runs = [
        run for run in _RUNS.glob("*") if RunFolder(run).is_run and read_run(run)["objective"]["kind"] == "video_text"
    ]
    if not runs:
        raise UserError(f"--weights RUN_OR_FILE is missing, and there is no run of video_text below {_RUNS}/")
    return max(runs, key=lambda run: RunFolder(run).checkpoints.stat().st_mtime)


def _spec(arguments: Namespace) -> ZeroShotSpec:
    clips, crops = arguments.views
    names = ("prompts", "ensemble", "names_as", "average", "frames")
    return ZeroShotSpec(clips=clips, crops=crops, **{name: getattr(arguments, name) for name in names})


def _test_of(arguments: Namespace) -> ZeroShotTest:
    if arguments.draws and arguments.classes:
        raise UserError("--draws and --classes both select the candidate classes; give only one of them")
    draws = ClassDraws(arguments.draws[0], arguments.draws[1], arguments.seed) if arguments.draws else None
    names = ("batch_size", "workers", "cache")
    rest = {name: getattr(arguments, name) for name in names}
    return ZeroShotTest(tuple(arguments.data), tuple(arguments.classes), draws, arguments.new_to, **rest)
