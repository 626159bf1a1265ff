"""METEOR (Denkowski and Lavie 2014) of captions, by its authors' own program, where that can run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from finetune.captions.scores import words

LIBRARY = "pycocoevalcap, METEOR 1.5"


def what_is_missing() -> str | None:
    """Say why METEOR cannot be had here, and how it can; None where it can."""
    if find_spec("pycocoevalcap") is None:
        return "METEOR is left out: pycocoevalcap, which brings it, is not installed (pip install 'trichord[meteor]')"
    if shutil.which("java") is None:
        return "METEOR is left out: it is a Java program, and there is no java on this machine"
    return None


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Give METEOR of the whole set, on the words that the other figures compare."""
    from pycocoevalcap.meteor.meteor import Meteor

    said = {row: [" ".join(words(caption))] for row, caption in enumerate(captions)}
    wanted = {row: [" ".join(words(each)) for each in clip] for row, clip in enumerate(references)}
    total, _ = Meteor().compute_score(wanted, said)
    return float(total)
