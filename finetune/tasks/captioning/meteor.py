"""METEOR (Denkowski and Lavie 2014) of captions, by its authors' own program, where that can run."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

from trichord.core.errors import UserError
from trichord.finetune.tasks.captioning.scores import words

LIBRARY = "pycocoevalcap, METEOR 1.5"
FOLDER = sysconfig.get_path("purelib")


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


def path_suits() -> bool:
    """Return whether METEOR's loader can read its data in the folder it is installed in."""
    return FOLDER.isascii() and " " not in FOLDER


def meteor(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """Return METEOR of each set of captions, on the words that the other figures compare.

    Raise UserError where the program ends before it has answered.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    wanted = {row: [" ".join(words(each)) for each in clip] for row, clip in enumerate(references)}
    said = [{row: [" ".join(words(caption))] for row, caption in enumerate(captions)} for captions in sets]
    try:
        return [float(program.compute_score(wanted, each)[0]) for each in said]
    except (OSError, ValueError) as error:  # its pipe is closed, or what it answered is no number
        program.meteor_p.kill()
        with suppress(OSError):  # what it never read
            program.meteor_p.stdin.close()
        lines = program.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        path = "" if path_suits() else f" It cannot read its data in a path like {FOLDER}."
        raise UserError(
            f"METEOR's Java program failed: {lines[0] if lines else 'it said nothing'}.{path} Every other figure does "
            "without: objective.meteor=false"
        ) from error
    finally:
        if program.lock.locked():  # else its end would wait for the lock for ever
            program.lock.release()
