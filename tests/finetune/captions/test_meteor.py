"""METEOR is its authors' own program; starting it takes seconds, so it has a file by itself."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.finetune.tasks.captioning.meteor import meteor, path_suits


def test_a_program_that_fails_is_told_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\necho 'not enough memory' >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="failed: not enough memory"):
        meteor([["a"]], [["a"]])
    gc.collect()  # where the library waits for a lock that nobody releases


@pytest.mark.skipif(not path_suits(), reason="METEOR cannot read its data in this path")
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and there is no java here")
def test_meteor_is_its_authors() -> None:
    references = [["a red star swells"], ["blue ring"]]
    sets = [[clip[0] for clip in references], ["a red star grows", "the blue ring moves"], ["no", "no"]]
    right, near, wrong = meteor(sets, references)
    assert right == pytest.approx(1.0) and 0.2 < near < 0.9 and wrong == 0.0
