"""SLURM's commands as scripts that print the format of a real cluster and record their arguments."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

# Output of SLURM 22.05 with shortened ids; TIMEOUT, NODE_FAIL and the gap at 4 are added.
SQUEUE = """\
70_1|RUNNING|None|n1
70_2|PENDING|JobArrayTaskLimit|
70_3|PENDING|JobArrayTaskLimit|
62|RUNNING|None|n[1-2]
64|PENDING|PartitionNodeLimit|
66|CANCELLED|JobHeldUser|
"""
SACCT = """\
61|COMPLETED|None|n1
65|FAILED|None|n1
67|CANCELLED by 0|None|None assigned
68|TIMEOUT|None|n1
69|NODE_FAIL|None|n[1-2]
70_0|COMPLETED|None|n1
70_[2-3,5-9%2]|PENDING|JobArrayTaskLimit|None assigned
"""
FORGOTTEN = "slurm_load_jobs error: Invalid job id specified"


class FakeSlurm:
    """A folder of commands, the only one on PATH besides the shell's own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        for name in ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "sinfo"):
            self.answers(name)

    def answers(self, name: str, text: str = "", error: str = "", status: int = 0) -> None:
        """Make a command print this text from now on."""
        self._write(
            name,
            f"printf %s {shlex.quote(text)}\nprintf '%s\\n' {shlex.quote(error)} >&2\nexit {status}",
        )

    def hangs(self, name: str) -> None:
        """Make a command hang."""
        self._write(name, "exec sleep 60")

    def asked(self, name: str) -> list[str]:
        """Return the arguments of each call."""
        calls = self._folder / f"{name}.calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def _write(self, name: str, lines: str) -> None:
        path = self._folder / name
        calls = shlex.quote(str(self._folder / f"{name}.calls"))
        new = path.with_name(f".{name}")  # a script that is being started cannot be written to
        new.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{lines}\n')
        new.chmod(0o755)
        new.replace(path)
