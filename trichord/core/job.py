"""What a command tells of its work so that a cluster can run it: as ranks that meet, or as parts that need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Job(ABC):
    """One piece of work that was typed and is to run elsewhere. Nothing here may import torch: login nodes are slow."""

    name: str  # in the queue
    folder: Path  # of the run: its history, logs and snapshots go there

    is_of_parts: bool = False  # it can be done in parts by jobs that know nothing of each other
    saves_when_told: bool = False  # a signal only asks it to stop; otherwise the signal interrupts it where it is

    def within(self, label: str) -> Self:
        """Give the same work in a folder below: one element of a sweep."""
        return replace(self, name=f"{self.name}-{label}", folder=self.folder / label)

    @abstractmethod
    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        """Give the command to type in the job, without `trichord`; it reads what `files` put into the snapshot.

        `part` is a number from 1 on, and of how many.
        """

    @abstractmethod
    def files(self, ranks: int) -> Mapping[str, str]:
        """Give what the snapshot is to hold of this work, by the names of files: its resolved config above all."""

    @abstractmethod
    def check(self, ranks: int) -> Sequence[str]:
        """Raise UserError for what would go wrong at the start; give a line for each thing that was looked at."""

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        """Do the same for what takes longer, such as a rehearsal of its memory; this may import torch."""
        return ()
