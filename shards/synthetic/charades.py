"""The Charades layout: two csv files with scripts, descriptions and overlapping, sometimes overlong intervals."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from trichord.core.files import write_whole
from trichord.core.seeds import derive_seed, generator
from trichord.shards.synthetic.language import captions
from trichord.shards.synthetic.plan import ClipPlan, Event, GeneratedClip, SyntheticRules
from trichord.shards.synthetic.table import write_table
from trichord.shards.synthetic.vocabulary import BEHIND, CLASSES

HEADER = (
    "id",
    "subject",
    "scene",
    "quality",
    "relevance",
    "verified",
    "script",
    "objects",
    "descriptions",
    "actions",
    "length",
)
_FOLDER = "Charades_v1_480"
_SYMBOLS = string.digits + string.ascii_uppercase
_STEP = 7_368_787  # coprime to 36**5, so that all names are used before one repeats
_OVERLONG_SHARE = 0.12
_NO_ACTION_SHARE = 0.06


def adapt(rules: SyntheticRules) -> SyntheticRules:
    """Return the rules with a share of clips without an event, as some Charades videos show no action."""
    return rules if rules.no_event_share else rules.model_copy(update={"no_event_share": _NO_ACTION_SHARE})


def name_files(plans: Sequence[ClipPlan]) -> list[str]:
    """Return a path for each video, named by five letters and digits."""
    return [f"{_FOLDER}/{video_id(plan)}.mp4" for plan in plans]


def write_lists(out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
    """Write the class list and both splits; Charades has no validation split, so its clips are training clips."""
    folder = out / "Charades"
    folder.mkdir(exist_ok=True)
    lines = [f"c{number:03d} {name}\n" for number, name in enumerate(CLASSES)]
    write_whole(folder / "Charades_v1_classes.txt", "".join(lines))
    for split, members in (("train", ("train", "val")), ("test", ("test",))):
        rows = [_row(clip.plan, rules) for clip in clips if clip.plan.group.split in members]
        write_table(folder / f"Charades_v1_{split}.csv", HEADER, rows)


def video_id(plan: ClipPlan) -> str:
    """Return a unique name such as 0BNML for the clip's number."""
    place = (derive_seed(plan.seed, "charades") + plan.number * _STEP) % len(_SYMBOLS) ** 5
    name = ""
    for _ in range(5):
        place, symbol = divmod(place, len(_SYMBOLS))
        name += _SYMBOLS[symbol]
    return name


def _row(plan: ClipPlan, rules: SyntheticRules) -> list[object]:
    rng = generator(plan.seed, "charades", plan.number)
    script, *descriptions = captions(plan, rules.captions)
    shapes = dict.fromkeys(thing.shape for thing in (*(e.thing for e in plan.events), *plan.distractors))
    quality, relevance = rng.integers(4, 8, 2)
    actions = [_action(event, plan, rng.random(), rng.random()) for event in plan.events]
    return [
        video_id(plan),
        plan.group.name,  # the subject: as in Charades, a person appears in one split only
        BEHIND[plan.group.background],
        quality,
        relevance,
        "Yes" if rng.random() < 0.9 else "No",
        f"{script[0].upper()}{script[1:]}, and that is all.",
        ";".join(shapes),
        ";".join(descriptions),
        ";".join(actions),
        f"{plan.duration_s:.2f}",
    ]


def _action(event: Event, plan: ClipPlan, luck: float, excess: float) -> str:
    """Return an interval as text; a few end after the video, as a large share of the official ones do."""
    overlong = luck < _OVERLONG_SHARE
    end_s = plan.duration_s + 0.1 + 2 * excess if overlong else event.end_s
    return f"c{CLASSES.index(event.action):03d} {event.start_s:.2f} {end_s:.2f}"
