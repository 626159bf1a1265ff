"""METEOR is the program of its authors; starting it takes seconds, so it has its own test file."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.finetune.tasks.captioning.scores import meteor, meteor_reads_its_path


def test_failed_program_is_reported_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\necho 'not enough memory' >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="failed: not enough memory"):
        meteor([["a"]], [["a"]])
    gc.collect()  # where the library waits for a lock that is never released


@pytest.mark.skipif(not meteor_reads_its_path(), reason="METEOR cannot read its data in this path")
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and there is no java here")
def test_meteor_equals_the_program_of_its_authors() -> None:
    references = [["a red star swells"], ["blue ring"]]
    sets = [[clip[0] for clip in references], ["a red star grows", "the blue ring moves"], ["no", "no"]]
    right, near, wrong = meteor(sets, references)
    assert right == pytest.approx(1.0) and 0.2 < near < 0.9 and wrong == 0.0
