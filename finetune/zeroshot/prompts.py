"""Texts for class names: the published sets of prompts, by name. Needs neither torch nor pydantic, for quick help.

Results change by percentage points with the prompts, so figures are always reported with the name of the set. X-CLIP
and ViFi-CLIP were measured with bare names; OpenAI's sets are those of its list of prompts for CLIP (Radford et al.
2021), copied verbatim, "a example" included; ActionCLIP's are those of its released code (Wang et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Literal

from trichord.core.command import unknown_name

NamesAs = Literal["words", "given"]
PLACE = "{}"  # placeholder for the class name

_SHOWN = ("photo", "video", "example", "demonstration")
_DONE = ("", "using ", "doing ", "during ", "performing ", "practicing ")
_WORDS_WITHIN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

PROMPTS: dict[str, tuple[str, ...]] = {
    "bare": (PLACE,),
    "photo": (f"a photo of {PLACE}.",),
    "video": (f"a video of {PLACE}.",),
    "openai_ucf101": tuple(
        f"a {shown} of {article} person {done}{PLACE}." for done, article, shown in product(_DONE, ("a", "the"), _SHOWN)
    ),
    "openai_kinetics700": tuple(
        f"a {shown} of {who}{PLACE}." for shown, who in product(_SHOWN, ("", *(f"a person {done}" for done in _DONE)))
    ),
    "actionclip": (
        *(f"{begins} action {PLACE}" for begins in ("a photo of", "a picture of")),
        *(f"{begins} action of {PLACE}" for begins in ("Human", "Playing")),
        *(f"{does} a kind of action, {PLACE}" for does in ("Playing", "Doing")),
        *(f"{PLACE}{ends}" for ends in ("", ", an action", " this is an action", ", a video of action")),
        *(f"{who} is {PLACE}" for who in ("Look, the human", "The man", "The woman")),
        *(f"{begins} of {PLACE}" for begins in ("Video classification", "A video")),
        f"Can you recognize the action of {PLACE}?",
    ),
}


def templates_of(prompts: str) -> tuple[str, ...]:
    """Return the templates of a set, or the template that is given instead of a set's name."""
    if PLACE in prompts:
        return (prompts,)
    if prompts not in PROMPTS:
        raise ValueError(f"{unknown_name('no prompts', prompts, list(PROMPTS))}, or a text that contains {PLACE}")
    return PROMPTS[prompts]


def in_words(name: str) -> str:
    """Split a class name into words: `ApplyEyeMakeup` and `apply_eye_makeup` become apply eye makeup."""
    spaced = " ".join(name.replace("_", " ").split())
    if " " in spaced or spaced.isupper():
        return spaced
    parts = _WORDS_WITHIN.split(spaced)
    return " ".join(part if len(part) > 1 and part.isupper() else part.lower() for part in parts)


def texts_of(names: Sequence[str], prompts: str, names_as: NamesAs = "words") -> list[list[str]]:
    """Return, for each template, the texts of all classes."""
    in_texts = [in_words(name) if names_as == "words" else name for name in names]
    return [[template.replace(PLACE, name) for name in in_texts] for template in templates_of(prompts)]
