"""The description of a command's work for a cluster: as communicating ranks, or as independent parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Job(ABC):
    """A command that is to run on a cluster. Nothing here may import torch, because login nodes are slow."""

    name: str  # of the job in the queue
    folder: Path  # of the run, for its history, logs and snapshots

    is_of_parts: bool = False  # the work can be divided into parts for independent jobs
    saves_when_told: bool = False  # on a signal it saves and stops by itself; otherwise the signal interrupts it

    def within(self, label: str) -> Self:
        """Return the same work in a subfolder, as one element of a sweep."""
        return replace(self, name=f"{self.name}-{label}", folder=self.folder / label)

    @abstractmethod
    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        """Return the command to run in the job, without `trichord`; it reads the `files` in the snapshot.

        `part` is (I, N): part I of N, counted from 1.
        """

    @abstractmethod
    def files(self, ranks: int) -> Mapping[str, str]:
        """Return the files of this work for the snapshot, as contents by file name; above all, its resolved config."""

    @abstractmethod
    def check(self, ranks: int) -> Sequence[str]:
        """Check what could fail at the start: raise UserError for a failure, return a line for each passed check."""

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        """Run checks as in `check` that take longer, such as measuring its memory use; this may import torch."""
        return ()
