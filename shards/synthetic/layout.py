"""What a layout of the world has to say: which rules it bends, what its files are called, what its lists hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trichord.shards.synthetic.plan import ClipPlan, WorldRules


@dataclass(frozen=True)
class Clip:
    """A planned clip and its place below the world's folder."""

    plan: ClipPlan
    path: str


class WorldLayout(Protocol):
    """Every layout is a module with these three functions."""

    def adapt(self, rules: WorldRules) -> WorldRules:
        """Leave out what the dataset cannot say."""

    def name_files(self, plans: Sequence[ClipPlan]) -> list[str]:
        """Name the video file of each clip, relative to the world's folder; its suffix chooses the codecs."""

    def write_lists(self, out: Path, clips: Sequence[Clip], rules: WorldRules) -> None:
        """Write the dataset's own lists of labels, splits and captions, after all videos are there."""
