"""Where everything of a run lies in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run; whatever reads or writes one of them takes it from here."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings, written at the start; they can be given as a recipe."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint: `step_00001000`."""
        return self.path / "checkpoints"

    @property
    def failures(self) -> Path:
        """A folder for each step that was not finite, for `trichord replay`."""
        return self.path / "failures"

    @property
    def metrics(self) -> Path:
        """The logged figures, a line of JSON for each log step."""
        return self.path / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        """Who may write to the run."""
        return self.path / "lock"

    @property
    def history(self) -> Path:
        """When jobs were submitted, started and ended."""
        return self.path / "history.jsonl"

    @property
    def logs(self) -> Path:
        """What ranks printed, a file for each job and rank."""
        return self.path / "logs"

    @property
    def snapshots(self) -> Path:
        """What jobs took along when they were submitted: settings, code, versions."""
        return self.path / "snapshots"

    @property
    def evaluations(self) -> Path:
        """What evaluations found."""
        return self.path / "evaluations"

    @property
    def is_run(self) -> bool:
        """Whether a run was trained here, rather than a file of weights lying here."""
        return self.checkpoints.is_dir()
