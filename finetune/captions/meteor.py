"""METEOR (Denkowski and Lavie 2014) of captions, by its authors' own program, where that can run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from finetune.captions.scores import words
from shards.errors import UserError

LIBRARY = "pycocoevalcap, METEOR 1.5"


def check() -> None:
    """Raise UserError where METEOR is asked for and cannot be had."""
    if find_spec("pycocoevalcap") is None:
        raise UserError(
            "objective.meteor=true needs pycocoevalcap, which brings METEOR and is not installed: pip install "
            "'trichord[meteor]'. Every other figure does without: objective.meteor=false"
        )
    if shutil.which("java") is None:
        raise UserError(
            "objective.meteor=true needs java, for METEOR is a Java program, and there is none on this machine. Every "
            "other figure does without: objective.meteor=false"
        )


def meteor(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """Give METEOR of each set of captions, on the words that the other figures compare."""
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    wanted = {row: [" ".join(words(each)) for each in clip] for row, clip in enumerate(references)}
    said = [{row: [" ".join(words(caption))] for row, caption in enumerate(captions)} for captions in sets]
    return [float(program.compute_score(wanted, each)[0]) for each in said]
