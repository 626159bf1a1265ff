"""Experiments that train the same seeds in several ways: each run is trained once, kept, and reported in tables.

Runs are trained by the engine. A run folder with other settings is an error: no figure comes from other weights.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.saving import changes
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective

Rows = list[dict[str, object]]  # of a table

UNTRAINED = "untrained"
_RESULT = "learning.json"


@dataclass(frozen=True)
class Figure:
    """An accuracy over seeds; the spread is that between the worst and the best seed."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise the values of the seeds."""
        return cls(statistics.fmean(values), max(values) - min(values))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.spread / 2:.1f}"


@dataclass(frozen=True)
class GoalCheck:
    """Whether a goal is met: it is where the means differ by more than the larger of both spreads."""

    goal: str
    probe: str
    ours: float
    theirs: float
    spread: float

    @property
    def met(self) -> bool:
        """Whether ours is ahead by more than the spread."""
        return self.ours - self.theirs > self.spread

    def row(self) -> dict[str, object]:
        """Return the row of the table."""
        return {
            "goal": self.goal,
            "probe": self.probe,
            "ahead by": round(100 * (self.ours - self.theirs), 2),
            "spread": round(100 * self.spread, 2),
            "met": self.met,
        }


@dataclass(frozen=True)
class WayResult:
    """The result of one way of training: figures by name, as shares of 1 except ranks."""

    config: dict[str, Any]
    figures: dict[str, float] = field(default_factory=dict)
    training_s: float = 0.0


Seed = Mapping[str, WayResult]  # by way
Goal = tuple[str, str, str]  # the way of training that has to be ahead, the other one, and the figure


def learn_way(
    config: RunConfig, run: Path, settings: dict[str, Any], measure: Callable[[Objective], dict[str, float]]
) -> WayResult:
    """Train and measure, or load the result of an earlier call with the same settings."""
    path = run / _RESULT
    if path.exists():
        kept = WayResult(**json.loads(path.read_bytes()))
        if kept.config == settings:
            print(f"{run.name}: finished before", file=sys.stderr, flush=True)
            return kept
    print(f"{run.name}: {config.steps} steps", file=sys.stderr, flush=True)
    training_s = train(config, run)
    result = WayResult(settings, measure(_trained(config, run)), training_s)
    write_whole(path, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _trained(config: RunConfig, run: Path) -> Objective:
    """Load the networks from the last checkpoint of a run."""
    newest = checkpoint_files.checkpoints_in(RunFolder(run).checkpoints)[0]
    names = sorted(name for name in checkpoint_files.read_index(newest).files if name.startswith("weights-"))
    objective = build(config)
    objective.load_state_dict(dict(checkpoint_files.read_tensors(newest, names)))
    return objective


def figure(results: Sequence[Seed], way: str, name: str) -> Figure | None:
    """Summarise one figure over the seeds; return None for a way of training without it."""
    values = [found[way].figures[name] for found in results if name in found[way].figures]
    return Figure.of(values) if values else None


def row(results: Sequence[Seed], ways: Iterable[str], name: str, chance: str) -> dict[str, object]:
    """Return the row of a figure: its value for each way of training, in per cent."""
    return {"figure": name, "chance": chance, **{way: str(figure(results, way, name) or "-") for way in ways}}


def rank_row(results: Sequence[Seed], ways: Iterable[str], name: str, clips: int) -> dict[str, object]:
    """Return the row of a median rank among a number of clips."""
    found: dict[str, object] = {"figure": f"{name} of {clips}", "chance": f"{(clips + 1) / 2:.0f}"}
    for way in ways:
        one = figure(results, way, name)
        found[way] = f"{one.mean:.0f} ± {one.spread / 2:.0f}" if one else "-"
    return found


def check_goals(results: Sequence[Seed], goals: Iterable[Goal]) -> list[GoalCheck]:
    """Check every goal."""
    found = []
    for ours, theirs, name in goals:
        one, other = figure(results, ours, name), figure(results, theirs, name)
        assert one is not None and other is not None
        found.append(GoalCheck(f"{ours} beats {theirs}", name, one.mean, other.mean, max(one.spread, other.spread)))
    return found


def report(out: Path, seeds: Sequence[int], results: Sequence[Seed], tables: Mapping[str, Rows]) -> dict[str, Rows]:
    """Add the training times, write everything to results.json, and return the tables."""
    trained = [way for way in results[0] if way != UNTRAINED]
    seconds: Rows = [
        {"seed": seed, **{way: round(result[way].training_s) for way in trained}}
        for seed, result in zip(seeds, results, strict=True)
    ]
    whole = {**tables, "seconds of training": seconds}
    kept = {"tables": whole, "seeds": [{way: asdict(each) for way, each in found.items()} for found in results]}
    write_whole(out / "results.json", json.dumps(kept, indent=1) + "\n")
    return whole


def train(config: RunConfig, run: Path) -> float:
    """Pretrain and return the seconds that it took; an interrupted run continues if its settings are unchanged."""
    _refuse_other_settings(config, run)
    from trichord.pretrain.engine.run import pretrain  # DeepSpeed takes seconds to import

    start_s = time.monotonic()
    pretrain(config, run)
    return time.monotonic() - start_s


def _refuse_other_settings(config: RunConfig, run: Path) -> None:
    """Raise if the run has other settings, many of which the engine lets change during a run."""
    for checkpoint in checkpoint_files.checkpoints_in(RunFolder(run).checkpoints):
        try:
            index = checkpoint_files.read_index(checkpoint)
        except checkpoint_files.TornCheckpoint:
            continue  # the engine skips it as well, and logs it
        try:
            before = type(config).model_validate(index.config)  # settings that are newer have their defaults
        except ValidationError as error:
            found = [f"it is of another version: {error.errors()[0]['msg']}"]
        else:
            found = changes(config, index.model_copy(update={"config": before.model_dump(mode="json")}))
        if found:
            listed = "\n  ".join(found)
            raise UserError(
                f"{run} holds a run with other settings:\n  {listed}\nChoose another --out, or delete that folder "
                "to train it again."
            )
        return
