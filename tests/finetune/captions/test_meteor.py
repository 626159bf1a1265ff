"""METEOR is its authors' own program; starting it takes seconds, so it has a file by itself."""

from __future__ import annotations

import shutil

import pytest

from finetune.captions.meteor import meteor


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and there is no java here")
def test_meteor_is_its_authors() -> None:
    references = [["a red star swells"], ["blue ring"]]
    sets = [[clip[0] for clip in references], ["a red star grows", "the blue ring moves"], ["no", "no"]]
    right, near, wrong = meteor(sets, references)
    assert right == pytest.approx(1.0) and 0.2 < near < 0.9 and wrong == 0.0
