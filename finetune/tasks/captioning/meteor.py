"""METEOR (Denkowski and Lavie 2014) of captions, computed by its authors' program where that can run."""

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
    """Raise UserError if METEOR cannot run on this machine."""
    if find_spec("pycocoevalcap") is None:
        raise UserError(
            "objective.meteor=true needs pycocoevalcap, which contains METEOR and is not installed: pip install "
            "'trichord[meteor]'. No other metric needs it: objective.meteor=false"
        )
    if shutil.which("java") is None:
        raise UserError(
            "objective.meteor=true needs java, because METEOR is a Java program, and java was not found on this "
            "machine. No other metric needs it: objective.meteor=false"
        )


def path_suits() -> bool:
    """Return whether METEOR's loader can read its data from the folder it is installed in."""
    return FOLDER.isascii() and " " not in FOLDER


def meteor(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """Return METEOR of each set of captions, on the same words that the other metrics compare.

    Raise UserError if the program ends without a result.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    expected = {row: [" ".join(words(each)) for each in clip] for row, clip in enumerate(references)}
    candidates = [{row: [" ".join(words(caption))] for row, caption in enumerate(captions)} for captions in sets]
    try:
        return [float(program.compute_score(expected, each)[0]) for each in candidates]
    except (OSError, ValueError) as error:  # its pipe is closed, or its answer is not a number
        program.meteor_p.kill()
        with suppress(OSError):  # input it never read
            program.meteor_p.stdin.close()
        lines = program.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        path = "" if path_suits() else f" It cannot read its data from a path like {FOLDER}."
        raise UserError(
            f"METEOR's Java program failed: {lines[0] if lines else 'it printed no error'}.{path} No other metric "
            "needs it: objective.meteor=false"
        ) from error
    finally:
        if program.lock.locked():  # otherwise its destructor would wait for the lock forever
            program.lock.release()
