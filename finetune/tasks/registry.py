"""Registry of the tasks that a recipe selects by `kind`; plug-ins add theirs through an entry point."""

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

# Type of a pydantic field that holds any of them.
if TYPE_CHECKING:
    AnyTask = TaskSpec
else:
    AnyTask = one_of(TASKS)
