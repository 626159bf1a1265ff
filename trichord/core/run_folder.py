"""The paths of the files in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run; all code that reads or writes one of them takes it from here."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings, written at the start; usable as a recipe."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, a folder for each: `step_00001000`."""
        return self.path / "checkpoints"

    @property
    def failures(self) -> Path:
        """The steps with non-finite values, a folder for each, for `trichord replay`."""
        return self.path / "failures"

    @property
    def metrics(self) -> Path:
        """The logged metrics, a line of JSON for each log step."""
        return self.path / "metrics.jsonl"

    @property
    def bad_samples(self) -> Path:
        """The samples that could not be used, a line of JSON for each."""
        return self.path / "bad.jsonl"

    @property
    def lock(self) -> Path:
        """The lock file, which names the process that may write to the run."""
        return self.path / "lock"

    @property
    def history(self) -> Path:
        """The times at which jobs were submitted, started and ended."""
        return self.path / "history.jsonl"

    @property
    def logs(self) -> Path:
        """The output of ranks, a file for each job and rank."""
        return self.path / "logs"

    @property
    def snapshots(self) -> Path:
        """The snapshots of submitted jobs: settings, code, versions."""
        return self.path / "snapshots"

    @property
    def evaluations(self) -> Path:
        """The results of evaluations."""
        return self.path / "evaluations"

    @property
    def is_run(self) -> bool:
        """Whether this is the folder of a training run, rather than of a weights file."""
        return self.checkpoints.is_dir()
