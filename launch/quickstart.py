"""`trichord quickstart`: the whole way in small on generated data, each step a command that anyone can type."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shards.command import Command, add_json, at_least
from shards.console import show_figures
from shards.errors import UserError

Rows = list[dict[str, Any]]


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
    return [
        Step("world", "generate clips", ("shards", "world", "--out", world, "--samples", str(samples))),
        Step("build", "write them as shards", ("shards", "build", "csv", "--root", world, "--out", sets, *small)),
        Step("index", "count the training set again", ("shards", "index", f"{sets}/train")),
        Step("verify", "decode every frame of it and all its sound", ("shards", "verify", f"{sets}/train")),
        Step("read", "read batches in one process", ("shards", "read", f"{sets}/train", *batch)),
        Step("workers", "read them with two workers", ("shards", "read", f"{sets}/train", *batch, "--workers", "2")),
        Step("show", "draw a contact sheet", ("shards", "show", f"{sets}/train", "--out", str(out / "sheet.png"))),
    ]


def next_commands(out: Path) -> list[str]:
    """Give three commands worth typing next."""
    return [
        f"trichord shards show {out}/shards/train --out {out}/views.png --views svt --count 3",
        "trichord shards build folder --root YOUR_VIDEOS --out my-shards --mode encode",
        "trichord shards world --out harder --samples 500 --rules two_events_share=1 silent_share=0.3",
    ]


def compare(found: dict[str, Rows]) -> Rows:
    """Put each figure beside the control that tells whether to believe it."""
    (world,), built, (indexed,) = found["world"], found["build"], found["index"]
    (verified,), (read,), (shared,) = found["verify"], found["read"], found["workers"]
    train = next(row for row in built if row["split"] == "train")
    return [
        {
            "figure": "samples in the shards",
            "value": sum(row["samples"] for row in built),
            "control": world["clips"],
            "the control is": "clips generated",
        },
        {
            "figure": "samples counted in the tar files of train",
            "value": indexed["samples"],
            "control": train["samples"],
            "the control is": "samples written",
        },
        {
            "figure": "clips of train that decode to the last frame",
            "value": verified["good"],
            "control": train["samples"],
            "the control is": "samples written",
        },
        {
            "figure": "digest of batches from two workers",
            "value": shared["digest"],
            "control": read["digest"],
            "the control is": "the same from one process",
        },
        {
            "figure": "share of clips without a sound track",
            "value": verified["of that without a track"],
            "control": world["silent"] / world["clips"],
            "the control is": "the share that was generated, over all splits",
        },
    ]


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
    show_figures("what came out, beside what it should be", compare(found), arguments.json)
    print(f"\ndone in {time.monotonic() - start_s:.0f} s; try next:", file=sys.stderr)
    for command in next_commands(arguments.out):
        print(f"  {command}", file=sys.stderr)
    return 0


def _figures_of(step: Step) -> Rows:
    """Run a command as a person would, in a process of its own, and give the rows that it prints."""
    command: Sequence[str] = [sys.executable, "-m", "launch.cli", *step.words, "--json"]
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
