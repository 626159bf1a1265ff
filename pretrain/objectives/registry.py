"""Registry of the objectives that a recipe selects by `kind`; plug-ins add theirs through an entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trichord.core.registry import Registry, one_of
from trichord.pretrain.objectives.spec import ObjectiveSpec

_HERE = "trichord.pretrain.objectives"

OBJECTIVES: Registry[type[ObjectiveSpec]] = Registry(
    "objectives",
    {
        "svt": f"{_HERE}.svt:SvtSpec",
        "av_prototypes": f"{_HERE}.av_prototypes:AvPrototypesSpec",
        "video_text": f"{_HERE}.video_text:VideoTextSpec",
    },
)

# Type of a pydantic field that holds any of them.
if TYPE_CHECKING:
    AnyObjective = ObjectiveSpec
else:
    AnyObjective = one_of(OBJECTIVES)
