"""The csv layout: clips.csv beside a folder of videos, with everything that is known about each clip."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from trichord.core.files import write_whole
from trichord.shards.synthetic.language import captions
from trichord.shards.synthetic.plan import ClipPlan, Event, GeneratedClip, SyntheticRules
from trichord.shards.synthetic.vocabulary import CLASSES

HEADER = (
    "path",
    "captions",
    "labels",
    "intervals",
    "group",
    "split",
    "events",
    "held_out",
    "silent",
    "background",
    "overlapping",
    "distractors",
    "number",
)


def adapt(rules: SyntheticRules) -> SyntheticRules:
    """Return the rules unchanged, as a table can represent everything."""
    return rules


def name_files(plans: Sequence[ClipPlan]) -> list[str]:
    """Return a path for each video, named by its number."""
    return [f"videos/{plan.number:06d}.mp4" for plan in plans]


def write_lists(out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
    """Write classes.txt and clips.csv."""
    write_whole(out / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write_table(out / "clips.csv", HEADER, [_row(clip, rules) for clip in clips])


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a csv file; cells are quoted where necessary."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, text.getvalue())


def _row(clip: GeneratedClip, rules: SyntheticRules) -> list[object]:
    plan = clip.plan
    return [
        clip.path,
        json.dumps(captions(plan, rules.captions, rules.unsaid_forms)),
        ";".join(dict.fromkeys(event.action for event in plan.events)),
        json.dumps([[event.action, event.start_s, event.end_s] for event in plan.events]),
        plan.group.name,
        plan.group.split,
        json.dumps([_facts(event) for event in plan.events]),
        json.dumps(any(event.held_out for event in plan.events)),
        json.dumps(plan.silent),
        plan.group.background,
        json.dumps(plan.overlapping),
        json.dumps([f"{thing.size} {thing.colour} {thing.shape}" for thing in plan.distractors]),
        plan.number,
    ]


def _facts(event: Event) -> dict[str, object]:
    return {
        "shape": event.thing.shape,
        "colour": event.thing.colour,
        "size": event.thing.size,
        "action": event.action,
        "start_s": event.start_s,
        "end_s": event.end_s,
        "combination": "/".join(event.combination),
        "held_out": event.held_out,
    }
