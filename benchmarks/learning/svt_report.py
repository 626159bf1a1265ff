"""What several seeds of the learning test say together: means, spreads, and whether the goals are met."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.learning.svt import LABELLED, PIXELS, SEEN, UNTRAINED, SeedResult, World, learn
from trichord.core.files import write_whole

Rows = list[dict[str, object]]

PROBES = ("knn", "linear")
# What the pretrained features have to beat, and in what.
GOALS = ((UNTRAINED, "shape"), (UNTRAINED, "action"), (PIXELS, "action"))


@dataclass(frozen=True)
class Figure:
    """An accuracy over seeds; the spread is from the worst seed to the best."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Sum up the seeds' values."""
        return cls(statistics.fmean(values), max(values) - min(values))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.spread / 2:.1f}"


@dataclass(frozen=True)
class Verdict:
    """A goal is met where the means differ by more than the larger of both spreads."""

    goal: str
    probe: str
    ours: float
    theirs: float
    spread: float

    @property
    def met(self) -> bool:
        """Whether ours is ahead for certain."""
        return self.ours - self.theirs > self.spread

    def row(self) -> dict[str, object]:
        """Give a line of the table."""
        return {
            "goal": self.goal,
            "probe": self.probe,
            "ahead by": round(100 * (self.ours - self.theirs), 2),
            "spread": round(100 * self.spread, 2),
            "met": self.met,
        }


def run_and_report(
    out: Path, objective: str, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> dict[str, Rows]:
    """Run the test, keep everything in results.json, and give the tables to show by their titles."""
    world, results = learn(out, objective, seeds, clips, overrides)
    judged = verdicts(results, objective)
    tables = {
        "per cent of unseen clips told right: mean of the seeds ± half their range": accuracy_rows(
            results, objective, world
        ),
        f"{objective} along the run": curve_rows(results),
        "goals, in per cent": [verdict.row() for verdict in judged],
        "seconds": [
            {"seed": result.config["seed"], "pretraining": result.pretraining_s, "with labels": result.labels_s}
            for result in results
        ],
    }
    kept = {"tables": tables, "seeds": [asdict(result) for result in results]}
    write_whole(out / "results.json", json.dumps(kept, indent=1) + "\n")
    return tables


def figure(results: Sequence[SeedResult], features: str, factor: str, clips: str, probe: str) -> Figure:
    """Sum up one accuracy over the seeds."""
    return Figure.of(
        [
            getattr(finding, probe)
            for result in results
            for finding in result.findings
            if (finding.features, finding.factor, finding.clips) == (features, factor, clips)
        ]
    )


def accuracy_rows(results: Sequence[SeedResult], objective: str, world: World) -> Rows:
    """Give the table: a line for each factor, kind of test clips and probe, a column for each kind of features."""
    rows: Rows = []
    for kind, clips in world.tests.items():
        for factor, truth_M in clips.labels.items():
            classes = int(world.train.labels[factor].max()) + 1
            commonest = most_common_share(world.train.labels[factor], truth_M)
            for probe in PROBES:
                row: dict[str, object] = {"combinations": kind, "factor": factor, "probe": probe}
                row |= {"chance": f"{100 / classes:.1f}", "commonest": f"{100 * commonest:.1f}"}
                for features in (PIXELS, UNTRAINED, objective, LABELLED):
                    row[features] = str(figure(results, features, factor, kind, probe))
                rows.append(row)
    return rows


def most_common_share(labels_N: Tensor, truth_M: Tensor) -> float:
    """Say how often the class that is the commonest in training is right."""
    return float((truth_M == labels_N.bincount().argmax()).double().mean())


def verdicts(results: Sequence[SeedResult], objective: str) -> list[Verdict]:
    """Judge every goal with both probes, on combinations that training shows."""
    found = []
    for features, factor in GOALS:
        for probe in PROBES:
            ours = figure(results, objective, factor, SEEN, probe)
            theirs = figure(results, features, factor, SEEN, probe)
            goal = f"{objective} beats {features} on {factor}"
            found.append(Verdict(goal, probe, ours.mean, theirs.mean, max(ours.spread, theirs.spread)))
    return found


def curve_rows(results: Sequence[SeedResult]) -> Rows:
    """Give the accuracies of the pretrained features along the run, to see where they point."""
    rows: Rows = []
    steps = sorted({step for result in results for step, _ in result.curve})
    factors = list(dict.fromkeys(finding.factor for result in results for _, finding in result.curve))
    for step in steps:
        row: dict[str, object] = {"step": step}
        for factor in factors:
            for probe in PROBES:
                values = [
                    getattr(finding, probe)
                    for result in results
                    for at, finding in result.curve
                    if at == step and finding.factor == factor and finding.clips == SEEN
                ]
                row[f"{factor}, {probe}"] = str(Figure.of(values))
        rows.append(row)
    return rows
