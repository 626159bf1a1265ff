"""What seeds of audio-visual learning say together: a line for each figure, a column for each way of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pretrain.bench.av_learning import (
    AUDIBLE,
    INSTANCES,
    PROTOTYPES,
    SENSES,
    SHUFFLED,
    UNTRAINED,
    WAYS,
    XDC,
    AvClips,
    WayResult,
    learn,
)
from pretrain.bench.learning_report import Figure, Rows, Verdict, most_common_share
from shards.whole_file import write_whole

DIRECTIONS = ("audio to video", "video to audio")
# Who has to be ahead of whom, and in what.
GOALS = (
    *((PROTOTYPES, other, f"{way}, R@10") for other in (UNTRAINED, SHUFFLED) for way in DIRECTIONS),
    *((ours, UNTRAINED, f"{sense}: action, linear") for ours in (PROTOTYPES, XDC) for sense in SENSES),
    (PROTOTYPES, INSTANCES, "audio: purity of action"),
)


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the test, keep everything in results.json, and give the tables to show by their titles."""
    parts, results = learn(out, seeds, clips, overrides)
    tables: dict[str, Rows] = {
        "which sound belongs to which picture, of unseen clips: mean of the seeds ± half their range": retrieval_rows(
            results, int(parts["test"].present_N.sum())
        ),
        "per cent of unseen clips told right by a linear probe": probe_rows(results, parts),
        "purity of 64 clusters of the training clips, per cent": purity_rows(results),
        "goals, in per cent": [verdict.row() for verdict in verdicts(results)],
        "seconds of training": [
            {"seed": seed, **{way: round(result[way].training_s) for way in WAYS}}
            for seed, result in zip(seeds, results, strict=True)
        ],
    }
    kept = {"tables": tables, "seeds": [{way: asdict(each) for way, each in found.items()} for found in results]}
    write_whole(out / "results.json", json.dumps(kept, indent=1) + "\n")
    return tables


def figure(results: Sequence[Mapping[str, WayResult]], way: str, name: str) -> Figure | None:
    """Sum up one figure over the seeds; there is none for a way of training that does not give it."""
    values = [found[way].figures[name] for found in results if name in found[way].figures]
    return Figure.of(values) if values else None


def retrieval_rows(results: Sequence[Mapping[str, WayResult]], clips: int) -> Rows:
    """Give recalls and median ranks among so many clips, beside what guessing gives."""
    rows: Rows = []
    for direction in DIRECTIONS:
        for recall in (1, 5, 10):
            chance = f"{100 * min(1.0, recall / clips):.1f}"
            rows.append(_row(results, f"{direction}, R@{recall}", chance))
        row: dict[str, object] = {"figure": f"{direction}, median rank of {clips}", "chance": f"{(clips + 1) / 2:.0f}"}
        for way in (UNTRAINED, *WAYS):
            found = figure(results, way, f"{direction}, median rank")
            row[way] = f"{found.mean:.0f} ± {found.spread / 2:.0f}" if found else "-"
        rows.append(row)
    return rows


def probe_rows(results: Sequence[Mapping[str, WayResult]], parts: Mapping[str, AvClips]) -> Rows:
    """Give what each sense's features know of each factor, beside always saying the commonest class."""
    labels = {factor: (parts["train"].labels[factor], parts["test"].labels[factor]) for factor in AUDIBLE}
    return [
        _row(results, f"{sense}: {factor}, linear", f"{100 * most_common_share(*labels[factor]):.1f}")
        for sense in SENSES
        for factor in AUDIBLE
    ]


def purity_rows(results: Sequence[Mapping[str, WayResult]]) -> Rows:
    """Give how far clusters of each sense's features are of one class."""
    return [_row(results, f"{sense}: purity of {factor}", "") for sense in SENSES for factor in AUDIBLE]


def verdicts(results: Sequence[Mapping[str, WayResult]]) -> list[Verdict]:
    """Judge every goal."""
    found = []
    for ours, theirs, name in GOALS:
        one, other = figure(results, ours, name), figure(results, theirs, name)
        assert one is not None and other is not None
        spread = max(one.spread, other.spread)
        found.append(Verdict(f"{ours} beats {theirs}", name, one.mean, other.mean, spread))
    return found


def _row(results: Sequence[Mapping[str, WayResult]], name: str, chance: str) -> dict[str, object]:
    row: dict[str, object] = {"figure": name, "chance": chance}
    for way in (UNTRAINED, *WAYS):
        row[way] = str(figure(results, way, name) or "-")
    return row
