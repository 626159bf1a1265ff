"""`trichord quickstart`: the whole way in small on generated data, each step a command that anyone can type."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures
from trichord.core.errors import UserError

Rows = list[dict[str, Any]]

_PROTOTYPES = 512  # of the recipe svt_quickstart
_TOKENS = 512  # of the recipe captions
_FEW_SAMPLES = 60
_CONTROLS = {"mAP_charades": "scores alike", "BLEU-4": "one caption"}  # columns of what a test writes


class Step(NamedTuple):
    """One command, and what it is for."""

    name: str
    purpose: str
    words: tuple[str, ...]


def steps(out: Path, samples: int) -> list[Step]:
    """List the way from nothing to what the floors built so far can do."""
    world, sets = str(out / "world"), str(out / "shards")
    small = ("--samples-per-shard", "16")
    batch = ("--size", "112", "--steps", "12")
    run, source = str(out / "run"), (f"data.sources={sets}/train",)
    is_short = samples < _FEW_SAMPLES  # what few clips can teach is learnt soon
    length, told_length = (("steps=50",), ("steps=15",)) if is_short else (("steps=80",), ("steps=200",))
    layout = ("--layout", "charades")
    return [
        Step(
            "world",
            "generate clips, in the files of Charades",
            ("shards", "world", "--out", world, "--samples", str(samples), *layout),
        ),
        Step("build", "write them as shards", ("shards", "build", "charades", "--root", world, "--out", sets, *small)),
        Step("index", "count the training set again", ("shards", "index", f"{sets}/train")),
        Step("verify", "decode every frame of it and all its sound", ("shards", "verify", f"{sets}/train")),
        Step("read", "read batches in one process", ("shards", "read", f"{sets}/train", *batch)),
        Step("workers", "read them with two workers", ("shards", "read", f"{sets}/train", *batch, "--workers", "2")),
        Step("show", "draw a contact sheet", ("shards", "show", f"{sets}/train", "--out", str(out / "sheet.png"))),
        Step(
            "pretrain",
            "learn from the clips without labels",
            ("pretrain", "svt_quickstart", *source, *length, "--run", run),
        ),
        Step("plot", "draw its curves", ("plot", run, "--out", str(out / "curves.html"))),
        Step("export", "write the network's weights for others", ("export", run)),
        *_head_steps(out, f"{sets}/test", (f"init_from.path={run}", *source), told_length),
    ]


def _head_steps(out: Path, test: str, begun: tuple[str, ...], told_length: tuple[str, ...]) -> list[Step]:
    """List what is put on the pretrained network, and how it is tested on clips that nothing has seen."""
    actions, told = str(out / "actions"), str(out / "told")
    once = ("objective.clips.placement=uniform", f"features={out / 'features'}")
    few = ("data.batch_size=16", "optimiser.learning_rate.warmup_steps=5")
    still = ("objective.clips.placement=centre", "objective.view.crop={kind: squash}")  # alike at every step
    kept = f"features={out / 'told_features'}"
    return [
        Step(
            "actions",
            "learn what happens in a window of a clip, on features that are computed once",
            ("finetune", "charades_world", *begun, *once, "steps=150", "--run", actions),
        ),
        Step("actions_test", "test that on other clips, window by window", ("evaluate", actions, "--data", test)),
        Step(
            "told",
            "learn to write captions, on features that are computed once",
            ("finetune", "captions", *begun, *few, *still, kept, *told_length, "--run", told),
        ),
        Step(
            "told_test",
            "write captions of other clips and compare them",
            ("evaluate", told, "objective.factors=world", "--data", test),
        ),
    ]


def next_commands(out: Path) -> list[str]:
    """Give commands worth typing next."""
    return [
        f"trichord shards show {out}/shards/train --out {out}/views.png --views svt --count 3",
        "trichord shards build folder --root YOUR_VIDEOS --out my-shards --mode encode",
        f"trichord compare {out}/actions {out}/told",
        f"trichord serve {out}/actions {out}/told --samples {out}/shards/test",
        f"trichord pretrain svt_quickstart data.sources={out}/shards/train steps=400 --run {out}/longer",
        "trichord shards world --out harder --samples 500 --rules two_events_share=1 silent_share=0.3",
    ]


class Comparison(NamedTuple):
    """A figure beside the control that tells whether to believe it, and how the two must stand to each other."""

    figure: str
    value: Any
    relation: str  # "is", "is about", "is below" or "is above"; "beside" where so little training promises nothing
    control: Any
    control_is: str


def compare(found: dict[str, Rows]) -> list[Comparison]:
    """Put each figure beside its control."""
    (world,), built, (indexed,) = found["world"], found["build"], found["index"]
    (verified,), (read,), (shared,), (trained,) = found["verify"], found["read"], found["workers"], found["pretrain"]
    train = next(row for row in built if row["split"] == "train")
    samples = sum(row["samples"] for row in built)
    silent, generated_silent = verified["of that without a track"], world["silent"] / world["clips"]
    written = "samples written"
    return [
        Comparison("samples in the shards", samples, "is", world["clips"], "clips generated"),
        Comparison("samples counted in train's tar files", indexed["samples"], "is", train["samples"], written),
        Comparison("clips that decode to the last frame", verified["good"], "is", train["samples"], written),
        Comparison("digest, two workers", shared["digest"], "is", read["digest"], "the same from one process"),
        Comparison("silent share of train", silent, "is about", generated_silent, "the share that was generated"),
        Comparison(
            "loss of SVT", trained["loss"], "is below", math.log(_PROTOTYPES), "ln K: no view told from another"
        ),
        Comparison("data wait, share of a step", trained["data_wait_share"], "is below", 0.05, "what is tolerable"),
        *_compare_heads(found),
    ]


def _compare_heads(found: dict[str, Rows]) -> list[Comparison]:
    (actions,), (actions_tested,) = found["actions"], found["actions_test"]
    (told,), (told_tested,) = found["told"], found["told_test"]
    return [
        Comparison("loss of the head", actions["loss"], "is below", math.log(2), "ln 2: it says nothing"),
        _beside_control("actions of unseen clips, mAP", "mAP_charades", actions_tested, "scores alike for all clips"),
        Comparison("loss of captions", told["loss"], "is below", math.log(_TOKENS), "ln: any token is as likely"),
        _beside_control("captions of unseen clips, BLEU-4", "BLEU-4", told_tested, "the best caption said of all"),
    ]


def _beside_control(figure: str, metric: str, tested: dict[str, Any], control_is: str) -> Comparison:
    """Take a figure and its control from what a test wrote."""
    written = json.loads(Path(tested["written"]).read_text(encoding="utf-8"))
    row = next(each for each in written["figures"] if each["metric"] == metric)
    return Comparison(figure, row["value"], "beside", row[_CONTROLS[metric]], control_is)


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="where everything goes")
    parser.add_argument("--samples", type=at_least(20), default=120, metavar="N", help="clips to generate")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    start_s = time.monotonic()
    planned = steps(arguments.out, arguments.samples)
    found = {}
    for number, step in enumerate(planned, 1):
        print(f"[{number}/{len(planned)}] {step.purpose}\n  $ trichord {shlex.join(step.words)}", file=sys.stderr)
        found[step.name] = _figures_of(step)
    rows = [comparison._asdict() for comparison in compare(found)]
    show_figures("what came out, beside what it should be", rows, arguments.json)
    print(f"\ndone in {time.monotonic() - start_s:.0f} s; try next:", file=sys.stderr)
    for command in next_commands(arguments.out):
        print(f"  {command}", file=sys.stderr)
    return 0


def _figures_of(step: Step) -> Rows:
    """Run a command as a person would, in a process of its own, and give the rows that it prints."""
    command: Sequence[str] = [sys.executable, "-m", "trichord", *step.words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the step {step.name} ended with status {done.returncode}; its reason stands above")
    rows: Rows = json.loads(done.stdout)["rows"]
    return rows


COMMAND = Command(
    "quickstart",
    "run the whole way in small on generated data, on the CPU",
    _declare,
    _run,
    ("trichord quickstart", "trichord quickstart --out somewhere --samples 40"),
)
