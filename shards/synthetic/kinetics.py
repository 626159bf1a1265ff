"""The Kinetics layout: annotations/{train,val,test}.csv and flat folders of `ID_START_END.mp4`."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from trichord.core.seeds import derive_seed
from trichord.shards.synthetic.plan import ClipPlan, GeneratedClip, SyntheticRules
from trichord.shards.synthetic.table import write_table

HEADER = ("label", "youtube_id", "time_start", "time_end", "split")
_LONGEST_VIDEO_S = 300


def adapt(rules: SyntheticRules) -> SyntheticRules:
    """Return the rules with exactly one event per clip, as in Kinetics."""
    return rules.model_copy(update={"two_events_share": 0.0, "no_event_share": 0.0})


def name_files(plans: Sequence[ClipPlan]) -> list[str]:
    """Return a path for each clip, named by the simulated source video and the cut."""
    return [f"{plan.group.split}/{youtube_id(plan)}_{_cut(plan)[0]:06d}_{_cut(plan)[1]:06d}.mp4" for plan in plans]


def write_lists(out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
    """Write one csv file per split."""
    for split in ("train", "val", "test"):
        plans = [clip.plan for clip in clips if clip.plan.group.split == split]
        rows = [[plan.events[0].action, youtube_id(plan), *_cut(plan), split] for plan in plans]
        write_table(out / "annotations" / f"{split}.csv", HEADER, rows)


def youtube_id(plan: ClipPlan) -> str:
    """Return eleven characters from A-Z a-z 0-9 _ and -; any of them may come first, as on the real site."""
    digest = derive_seed(plan.seed, "youtube", plan.number).to_bytes(8, "little")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _cut(plan: ClipPlan) -> tuple[int, int]:
    start_s = derive_seed(plan.seed, "cut", plan.number) % _LONGEST_VIDEO_S
    return start_s, start_s + math.ceil(plan.duration_s)
