"""What seeds of audio-visual learning say together: a line for each figure, a column for each way of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.learning.av_prototypes import (
    AUDIBLE,
    INSTANCES,
    MODALITIES,
    PROTOTYPES,
    SHUFFLED,
    WAYS,
    XDC,
    AvClips,
    learn,
)
from benchmarks.learning.svt_report import Rows, most_common_share
from benchmarks.learning.ways import UNTRAINED, Seed, judge, rank_row, report, row

ALL_WAYS = (UNTRAINED, *WAYS)
DIRECTIONS = ("audio to video", "video to audio")
# Who has to be ahead of whom, and in what.
GOALS = (
    *((PROTOTYPES, other, f"{way}, R@10") for other in (UNTRAINED, SHUFFLED) for way in DIRECTIONS),
    *((ours, UNTRAINED, f"{sense}: action, linear") for ours in (PROTOTYPES, XDC) for sense in MODALITIES),
    (PROTOTYPES, INSTANCES, "audio: purity of action"),
)


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the test, keep everything in results.json, and give the tables to show by their titles."""
    parts, results = learn(out, seeds, clips, overrides)
    heard = int(parts["test"].present_N.sum())
    tables = {
        "which sound belongs to which picture, of unseen clips: mean of the seeds ± half their range": retrieval_rows(
            results, heard
        ),
        "per cent of unseen clips told right by a linear probe": probe_rows(results, parts),
        "purity of 64 clusters of the training clips, per cent": purity_rows(results),
        "goals, in per cent": [verdict.row() for verdict in judge(results, GOALS)],
    }
    return report(out, seeds, results, tables)


def retrieval_rows(results: Sequence[Seed], clips: int) -> Rows:
    """Give recalls and median ranks among so many clips, beside what guessing gives."""
    rows: Rows = []
    for direction in DIRECTIONS:
        for recall in (1, 5, 10):
            chance = f"{100 * min(1.0, recall / clips):.1f}"
            rows.append(row(results, ALL_WAYS, f"{direction}, R@{recall}", chance))
        rows.append(rank_row(results, ALL_WAYS, f"{direction}, median rank", clips))
    return rows


def probe_rows(results: Sequence[Seed], parts: Mapping[str, AvClips]) -> Rows:
    """Give what each sense's features know of each factor, beside always saying the commonest class."""
    labels = {factor: (parts["train"].labels[factor], parts["test"].labels[factor]) for factor in AUDIBLE}
    return [
        row(results, ALL_WAYS, f"{sense}: {factor}, linear", f"{100 * most_common_share(*labels[factor]):.1f}")
        for sense in MODALITIES
        for factor in AUDIBLE
    ]


def purity_rows(results: Sequence[Seed]) -> Rows:
    """Give how far clusters of each sense's features are of one class."""
    return [row(results, ALL_WAYS, f"{sense}: purity of {factor}", "") for sense in MODALITIES for factor in AUDIBLE]
