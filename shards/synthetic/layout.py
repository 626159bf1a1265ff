"""The interface of a layout: the rules it changes, its file names, and the contents of its lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trichord.shards.synthetic.plan import ClipPlan, WorldRules


@dataclass(frozen=True)
class Clip:
    """A planned clip and its path relative to the data set's folder."""

    plan: ClipPlan
    path: str


class WorldLayout(Protocol):
    """The three functions that the module of a layout defines."""

    def adapt(self, rules: WorldRules) -> WorldRules:
        """Return the rules without what the dataset's format cannot represent."""

    def name_files(self, plans: Sequence[ClipPlan]) -> list[str]:
        """Return the path of each clip's video, relative to the data set's folder; its suffix chooses the codecs."""

    def write_lists(self, out: Path, clips: Sequence[Clip], rules: WorldRules) -> None:
        """Write the dataset's own lists of labels, splits and captions, after all videos are written."""
