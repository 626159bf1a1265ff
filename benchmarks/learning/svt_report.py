"""The report on several seeds of SVT: means, spreads, and whether the goals are met."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from benchmarks.learning.experiment import Figure, GoalCheck, Rows
from benchmarks.learning.svt import LABELLED, PIXELS, SEEN, UNTRAINED, ProbedClips, SeedResult, learn
from trichord.core.files import write_whole

PROBES = ("knn", "linear")
# The features that the pretrained ones have to beat, and the factor.
GOALS = ((UNTRAINED, "shape"), (UNTRAINED, "action"), (PIXELS, "action"))


def run_and_report(
    out: Path, objective: str, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> dict[str, Rows]:
    """Run the experiment, write everything to results.json, and return the tables by title."""
    probed, results = learn(out, objective, seeds, clips, overrides)
    checks = check_goals(results, objective)
    tables = {
        "accuracy on unseen clips, per cent: mean of the seeds ± half their range": accuracy_rows(
            results, objective, probed
        ),
        f"{objective} during the run": curve_rows(results),
        "goals, in per cent": [check.row() for check in checks],
        "seconds": [
            {"seed": result.config["seed"], "pretraining": result.pretraining_s, "with labels": result.labels_s}
            for result in results
        ],
    }
    kept = {"tables": tables, "seeds": [asdict(result) for result in results]}
    write_whole(out / "results.json", json.dumps(kept, indent=1) + "\n")
    return tables


def figure(results: Sequence[SeedResult], features: str, factor: str, clips: str, probe: str) -> Figure:
    """Summarise one accuracy over the seeds."""
    return Figure.of(
        [
            getattr(finding, probe)
            for result in results
            for finding in result.findings
            if (finding.features, finding.factor, finding.clips) == (features, factor, clips)
        ]
    )


def accuracy_rows(results: Sequence[SeedResult], objective: str, probed: ProbedClips) -> Rows:
    """Return a row for each factor, kind of test clips and probe, with a column for each kind of features."""
    rows: Rows = []
    for kind, clips in probed.tests.items():
        for factor, truth_M in clips.labels.items():
            classes = int(probed.train.labels[factor].max()) + 1
            commonest = most_common_share(probed.train.labels[factor], truth_M)
            for probe in PROBES:
                row: dict[str, object] = {"combinations": kind, "factor": factor, "probe": probe}
                row |= {"chance": f"{100 / classes:.1f}", "commonest": f"{100 * commonest:.1f}"}
                for features in (PIXELS, UNTRAINED, objective, LABELLED):
                    row[features] = str(figure(results, features, factor, kind, probe))
                rows.append(row)
    return rows


def most_common_share(labels_N: Tensor, truth_M: Tensor) -> float:
    """Return the accuracy of always predicting the most common class of the training clips."""
    return float((truth_M == labels_N.bincount().argmax()).double().mean())


def check_goals(results: Sequence[SeedResult], objective: str) -> list[GoalCheck]:
    """Check every goal with both probes, on combinations that occur in training."""
    found = []
    for features, factor in GOALS:
        for probe in PROBES:
            ours = figure(results, objective, factor, SEEN, probe)
            theirs = figure(results, features, factor, SEEN, probe)
            goal = f"{objective} beats {features} on {factor}"
            found.append(GoalCheck(goal, probe, ours.mean, theirs.mean, max(ours.spread, theirs.spread)))
    return found


def curve_rows(results: Sequence[SeedResult]) -> Rows:
    """Return the accuracies of the pretrained features during the run, which show their trend."""
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
