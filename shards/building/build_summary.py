"""What came of a build, for people, for `--json` and for `build.json` beside the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trichord.core.files import write_whole
from trichord.shards.building.shard_file import Skipped
from trichord.shards.building.transcode import Mode, Preset

REPORT = "build.json"


class SplitSummary(BaseModel):
    """What came of one split; also written as `build.json` beside its shards."""

    model_config = ConfigDict(frozen=True)
    split: str
    folder: Path
    layout: str
    options: dict[str, object]
    mode: Mode
    preset: Preset
    seed: int
    finished: bool
    planned_shards: int
    whole_shards: int = 0  # that are there, with those that no clip was left for
    shards: int = 0
    reused_shards: int = 0  # that this process found and did not have to write
    samples: int = 0
    bytes: int = 0
    classes: int = 0
    missing: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def save(self) -> None:
        """Write build.json: the same, whoever of many writes it."""
        write_whole(self.folder / REPORT, self.model_dump_json(indent=1, exclude={"reused_shards"}))


class BuildSummary(BaseModel):
    """What came of a build."""

    model_config = ConfigDict(frozen=True)
    splits: tuple[SplitSummary, ...]

    def rows(self) -> list[dict[str, object]]:
        """Give one row of figures a split."""
        return [
            {
                "split": each.split,
                "shards": each.shards,
                "reused": each.reused_shards,
                "samples": each.samples,
                "megabytes": round(each.bytes / 1e6, 1),
                "classes": each.classes,
                "missing": len(each.missing),
                "skipped": ", ".join(f"{cause}: {count}" for cause, count in count_causes(each.skipped).items()) or "0",
                "folder": str(each.folder),
            }
            for each in self.splits
        ]


def count_causes(skipped: Sequence[Skipped]) -> dict[str, int]:
    """Count what was skipped by cause."""
    return dict(sorted(Counter(str(each.cause) for each in skipped).items()))
