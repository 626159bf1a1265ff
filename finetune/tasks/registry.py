"""The tasks that a recipe may choose from by `kind`: a line for each, or an entry point of a plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trichord.core.registry import Registry, one_of
from trichord.finetune.tasks.spec import TaskSpec

_HERE = "trichord.finetune.tasks"

TASKS: Registry[type[TaskSpec]] = Registry(
    "tasks",
    {
        "classification": f"{_HERE}.classification.spec:ClassificationSpec",
        "captions": f"{_HERE}.captioning.spec:CaptionSpec",
    },
)

# The type of a field that holds one of them.
if TYPE_CHECKING:
    AnyTask = TaskSpec
else:
    AnyTask = one_of(TASKS)
