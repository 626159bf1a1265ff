"""What seeds of video-text learning say together: a line for each figure, a column for each way of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.svt_report import Rows
from benchmarks.learning.video_text import (
    CHANCES,
    CLIPS,
    CONTRAST,
    FORMS,
    MEAN,
    SHUFFLED,
    WAYS,
    WHOLE,
    learn,
)
from benchmarks.learning.ways import UNTRAINED, Goal, Seed, judge, rank_row, report, row

ALL_WAYS = (UNTRAINED, *WAYS)
DIRECTIONS = ("text to video", "video to text")
GOALS: tuple[Goal, ...] = (
    *((CONTRAST, other, f"held out: {WHOLE}, {form}") for other in (UNTRAINED, SHUFFLED) for form in FORMS),
    *((CONTRAST, other, f"{way}, R@10") for other in (UNTRAINED, SHUFFLED) for way in DIRECTIONS),
    (CONTRAST, MEAN, "held out: action, known form"),
)


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the test, keep everything in results.json, and give the tables to show by their titles."""
    test, results = learn(out, seeds, clips, overrides)
    tables = {
        "per cent of test clips told right among 1152 texts: mean of the seeds ± half their range": zero_shot_rows(
            results
        ),
        "which caption belongs to which test clip": retrieval_rows(results, len(test.captions)),
        "goals, in per cent": [verdict.row() for verdict in judge(results, GOALS)],
    }
    return report(out, seeds, results, tables)


def zero_shot_rows(results: Sequence[Seed]) -> Rows:
    """Give accuracies of clips of seen and of held-out combinations, by known and by new forms of text."""
    return [
        row(results, ALL_WAYS, f"{clips}: {factor}, {form}", f"{100 * chance:.1f}")
        for clips in CLIPS
        for form in FORMS
        for factor, chance in CHANCES.items()
    ]


def retrieval_rows(results: Sequence[Seed], clips: int) -> Rows:
    """Give recalls and median ranks among so many clips, of which some show the same."""
    rows: Rows = []
    for direction in DIRECTIONS:
        rows += [row(results, ALL_WAYS, f"{direction}, R@{k}", f"{100 * min(1.0, k / clips):.1f}") for k in (1, 5, 10)]
        rows.append(rank_row(results, ALL_WAYS, f"{direction}, median rank", clips))
    return rows
