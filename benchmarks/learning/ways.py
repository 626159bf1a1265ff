"""Ways of training the same seeds that are measured beside each other: each run once, kept, and put into tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.svt_report import Figure, Verdict
from benchmarks.learning.training import train
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective

UNTRAINED = "untrained"
_RESULT = "learning.json"


@dataclass(frozen=True)
class WayResult:
    """What one way of training gave: figures by name, in shares of 1 but for ranks."""

    config: dict[str, Any]
    figures: dict[str, float] = field(default_factory=dict)
    training_s: float = 0.0


Seed = Mapping[str, WayResult]  # by way
Goal = tuple[str, str, str]  # who has to be ahead of whom, and in what


def learn_way(
    config: RunConfig, run: Path, settings: dict[str, Any], measure: Callable[[Objective], dict[str, float]]
) -> WayResult:
    """Train and measure, or take what an earlier call with the same settings found."""
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
    """Load what a run's last checkpoint holds of the networks."""
    newest = checkpoint_files.checkpoints_in(RunFolder(run).checkpoints)[0]
    names = sorted(name for name in checkpoint_files.read_index(newest).files if name.startswith("weights-"))
    objective = build(config)
    objective.load_state_dict(dict(checkpoint_files.read_tensors(newest, names)))
    return objective


def figure(results: Sequence[Seed], way: str, name: str) -> Figure | None:
    """Sum up one figure over the seeds; there is none for a way of training that does not give it."""
    values = [found[way].figures[name] for found in results if name in found[way].figures]
    return Figure.of(values) if values else None


def row(results: Sequence[Seed], ways: Iterable[str], name: str, chance: str) -> dict[str, object]:
    """Give a line of a table: a figure of each way, in per cent."""
    return {"figure": name, "chance": chance, **{way: str(figure(results, way, name) or "-") for way in ways}}


def rank_row(results: Sequence[Seed], ways: Iterable[str], name: str, clips: int) -> dict[str, object]:
    """Give the line of a median rank among so many clips."""
    found: dict[str, object] = {"figure": f"{name} of {clips}", "chance": f"{(clips + 1) / 2:.0f}"}
    for way in ways:
        one = figure(results, way, name)
        found[way] = f"{one.mean:.0f} ± {one.spread / 2:.0f}" if one else "-"
    return found


def judge(results: Sequence[Seed], goals: Iterable[Goal]) -> list[Verdict]:
    """Judge every goal."""
    found = []
    for ours, theirs, name in goals:
        one, other = figure(results, ours, name), figure(results, theirs, name)
        assert one is not None and other is not None
        found.append(Verdict(f"{ours} beats {theirs}", name, one.mean, other.mean, max(one.spread, other.spread)))
    return found


def report(
    out: Path, seeds: Sequence[int], results: Sequence[Seed], tables: Mapping[str, list[dict[str, object]]]
) -> dict[str, list[dict[str, object]]]:
    """Add what training took, keep everything in results.json, and give the tables."""
    trained = [way for way in results[0] if way != UNTRAINED]
    seconds: list[dict[str, object]] = [
        {"seed": seed, **{way: round(result[way].training_s) for way in trained}}
        for seed, result in zip(seeds, results, strict=True)
    ]
    whole = {**tables, "seconds of training": seconds}
    kept = {"tables": whole, "seeds": [{way: asdict(each) for way, each in found.items()} for found in results]}
    write_whole(out / "results.json", json.dumps(kept, indent=1) + "\n")
    return whole
