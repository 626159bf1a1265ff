"""`trichord quickstart`: the whole workflow at small scale on synthetic data, each step an ordinary command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trichord.core.command import command_line
from trichord.core.console import show_figures
from trichord.core.errors import UserError

Rows = list[dict[str, Any]]

_PROTOTYPES = 512  # of the recipe svt_quickstart
_TOKENS = 512  # of the recipe captions
_FEW_SAMPLES = 60
_CONTROLS = {"mAP_charades": "scores alike", "BLEU-4": "one caption"}  # columns of the file that an evaluation writes


class Step(NamedTuple):
    """One command and its purpose."""

    name: str
    purpose: str
    words: tuple[str, ...]


def steps(out: Path, samples: int) -> list[Step]:
    """Return the steps from synthetic data to evaluated heads."""
    raw, shards = str(out / "synthetic"), str(out / "shards")
    small = ("--samples-per-shard", "16")
    batch = ("--size", "112", "--steps", "12")
    run, source = str(out / "run"), (f"data.sources={shards}/train",)
    is_short = samples < _FEW_SAMPLES  # few clips need few steps
    pretrain_steps, caption_steps = (("steps=50",), ("steps=15",)) if is_short else (("steps=80",), ("steps=200",))
    layout = ("--layout", "charades")
    return [
        Step(
            "synthetic",
            "generate synthetic clips, laid out as Charades",
            ("shards", "synthetic", "--out", raw, "--samples", str(samples), *layout),
        ),
        Step("build", "write them as shards", ("shards", "build", "charades", "--root", raw, "--out", shards, *small)),
        Step("index", "recount the samples of the training set", ("shards", "index", f"{shards}/train")),
        Step("verify", "decode all its video frames and audio", ("shards", "verify", f"{shards}/train")),
        Step("read", "read batches in one process", ("shards", "read", f"{shards}/train", *batch)),
        Step("workers", "read them with two workers", ("shards", "read", f"{shards}/train", *batch, "--workers", "2")),
        Step("show", "draw a contact sheet", ("shards", "show", f"{shards}/train", "--out", str(out / "sheet.png"))),
        Step(
            "pretrain",
            "pretrain on the clips without labels",
            ("pretrain", "svt_quickstart", *source, *pretrain_steps, "--run", run),
        ),
        Step("plot", "plot its curves", ("plot", run, "--out", str(out / "curves.html"))),
        Step("export", "export the network's weights", ("export", run)),
        *_head_steps(out, f"{shards}/test", (f"init_from.path={run}", *source), caption_steps),
    ]


def _head_steps(out: Path, test: str, init: tuple[str, ...], caption_steps: tuple[str, ...]) -> list[Step]:
    """Return the steps that train heads on the pretrained network and evaluate them on unseen clips."""
    actions, captions = str(out / "actions"), str(out / "captions")
    fixed_clips = ("objective.clips.placement=uniform", f"features={out / 'features'}")
    small = ("data.batch_size=16", "optimiser.learning_rate.warmup_steps=5")
    fixed_views = ("objective.clips.placement=centre", "objective.view.crop={kind: squash}")  # the same at every step
    cache = f"features={out / 'caption_features'}"
    return [
        Step(
            "actions",
            "train a classifier of actions in windows of a clip, on features computed once",
            ("finetune", "charades_synthetic", *init, *fixed_clips, "steps=150", "--run", actions),
        ),
        Step("actions_test", "evaluate it on unseen clips, window by window", ("evaluate", actions, "--data", test)),
        Step(
            "captions",
            "train a caption decoder, on features computed once",
            ("finetune", "captions", *init, *small, *fixed_views, cache, *caption_steps, "--run", captions),
        ),
        Step(
            "captions_test",
            "generate captions of unseen clips and score them",
            ("evaluate", captions, "objective.factors=synthetic", "--data", test),
        ),
    ]


def next_commands(out: Path) -> list[str]:
    """Return commands to try next."""
    shards, views, longer = out / "shards", out / "views.png", out / "longer"
    heads = (out / "actions", out / "captions")
    source = f"data.sources={shards / 'train'}"
    return [
        command_line("shards", "show", shards / "train", "--out", views, "--views", "svt", "--count", 3),
        "trichord shards build folder --root YOUR_VIDEOS --out my-shards --mode encode",
        command_line("compare", *heads),
        command_line("serve", *heads, "--samples", shards / "test"),
        command_line("pretrain", "svt_quickstart", source, "steps=400", "--run", longer),
        "trichord shards synthetic --out harder --samples 500 --rules two_events_share=1 silent_share=0.3",
    ]


class Comparison(NamedTuple):
    """A figure, the control value that shows whether it is plausible, and the expected relation of the two."""

    figure: str
    value: Any
    relation: str  # "is", "is about", "is below" or "is above"; "beside" where such short training guarantees nothing
    control: Any
    control_is: str


def compare(found: dict[str, Rows]) -> list[Comparison]:
    """Return each figure with its control."""
    (generated,), built, (indexed,) = found["synthetic"], found["build"], found["index"]
    (verified,), (read,), (shared,), (trained,) = found["verify"], found["read"], found["workers"], found["pretrain"]
    train = next(row for row in built if row["split"] == "train")
    samples = sum(row["samples"] for row in built)
    silent, generated_silent = verified["of that without a track"], generated["silent"] / generated["clips"]
    written = "samples written"
    return [
        Comparison("samples in the shards", samples, "is", generated["clips"], "clips generated"),
        Comparison("samples counted in train's tar files", indexed["samples"], "is", train["samples"], written),
        Comparison("clips that decode completely", verified["good"], "is", train["samples"], written),
        Comparison("digest, two workers", shared["digest"], "is", read["digest"], "the same from one process"),
        Comparison("silent share of train", silent, "is about", generated_silent, "the share that was generated"),
        Comparison(
            "loss of SVT", trained["loss"], "is below", math.log(_PROTOTYPES), "ln K: prototypes chosen uniformly"
        ),
        Comparison("data wait, share of a step", trained["data_wait_share"], "is below", 0.05, "tolerable share"),
        *_compare_heads(found),
    ]


def _compare_heads(found: dict[str, Rows]) -> list[Comparison]:
    (actions,), (actions_tested,) = found["actions"], found["actions_test"]
    (captions,), (captions_tested,) = found["captions"], found["captions_test"]
    return [
        Comparison("loss of the head", actions["loss"], "is below", math.log(2), "ln 2: an uninformative head"),
        _beside_control("actions of unseen clips, mAP", "mAP_charades", actions_tested, "scores alike for all clips"),
        Comparison(
            "loss of captions", captions["loss"], "is below", math.log(_TOKENS), "ln of the vocabulary: uniform tokens"
        ),
        _beside_control(
            "captions of unseen clips, BLEU-4", "BLEU-4", captions_tested, "the best single caption for all"
        ),
    ]


def _beside_control(figure: str, metric: str, tested: dict[str, Any], control_is: str) -> Comparison:
    """Read a figure and its control from the file that an evaluation wrote."""
    written = json.loads(Path(tested["written"]).read_text(encoding="utf-8"))
    row = next(each for each in written["figures"] if each["metric"] == metric)
    return Comparison(figure, row["value"], "beside", row[_CONTROLS[metric]], control_is)


def run_quickstart(arguments: Namespace) -> int:
    """Run all steps, compare their figures with the expected values, and suggest what to try next."""
    start_s = time.monotonic()
    planned = steps(arguments.out, arguments.samples)
    found = {}
    for number, step in enumerate(planned, 1):
        print(f"[{number}/{len(planned)}] {step.purpose}\n  $ {command_line(*step.words)}", file=sys.stderr)
        found[step.name] = _figures_of(step)
    rows = [comparison._asdict() for comparison in compare(found)]
    show_figures("results and their expected values", rows, arguments.json)
    print(f"\ndone in {time.monotonic() - start_s:.0f} s; try next:", file=sys.stderr)
    for command in next_commands(arguments.out):
        print(f"  {command}", file=sys.stderr)
    return 0


def _figures_of(step: Step) -> Rows:
    """Run a command in a subprocess and return the rows that it prints."""
    command: Sequence[str] = [sys.executable, "-m", "trichord", *step.words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the step {step.name} ended with status {done.returncode}; see its error above")
    rows: Rows = json.loads(done.stdout)["rows"]
    return rows
