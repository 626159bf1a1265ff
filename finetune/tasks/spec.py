"""Recipe settings common to all tasks on pretrained backbones; importable without torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

Modality = Literal["video", "audio"]


class TaskSpec(ObjectiveSpec):
    """An objective that starts from pretrained backbones and can be evaluated."""

    begins: ClassVar[str] = "trichord.finetune.init:begin"
    prepares: ClassVar[str]  # "module:function" that sets up a new task from its data
    predicts: ClassVar[str]  # "module:function" that computes the web page's predictions for one video
    page_section: ClassVar[str]  # the section of the page that shows its predictions
    evaluates: ClassVar[str]  # "module:function" that evaluates it on shards

    inputs: tuple[Modality, ...] = Field(default=("video",), min_length=1)
    clips: ClipSpec  # in training
    view: ViewSpec
    test_clips: ClipSpec
    test_view: ViewSpec
    frozen: bool = False  # backbones are frozen: a probe

    @property
    @abstractmethod
    def head_words(self) -> str:
        """A short description of the head on the backbones."""

    @property
    @abstractmethod
    def trained_words(self) -> str:
        """A short description of what is trained."""

    @property
    @abstractmethod
    def needs_grid(self) -> bool:
        """Whether it needs more of a backbone than the pooled vector."""

    @property
    @abstractmethod
    def random_settings(self) -> tuple[str, ...]:
        """The settings that randomise a backbone's inputs at every step."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes it distinguishes, if any."""
        return None

    @abstractmethod
    def test_spec(self) -> SampleSpec:
        """Return what a sample must contain in an evaluation."""

    def views_seen(self) -> tuple[ViewsSpec, ...]:
        return (self.sample_spec().views, self.test_spec().views)

    def feature_complaints(self) -> Iterator[str]:
        """Yield the reasons why features of its backbones cannot be stored."""
        if not self.frozen:
            yield "features need a frozen backbone: set objective.frozen=true, or leave features out"
        elif self.random_settings:
            drawn = ", ".join(f"objective.{name}" for name in self.random_settings)
            yield f"features are computed once, but {drawn} would differ at every step: set values without randomness"

    def check(self, config: Any) -> str:
        """Raise UserError if it cannot be trained or evaluated on the data; return one line that describes the task."""
        return f"{self.kind}: {self.head_words}"


def random_settings_of(clips: ClipSpec, view: ViewSpec) -> tuple[str, ...]:
    """Return the settings that randomise the frames taken from a video."""
    draws = {
        "clips.placement": clips.is_random,
        "view.crop": view.crop.is_random,
        "view.flip_probability": view.flip_probability > 0,
        "view.rand_augment": view.rand_augment is not None,
        "view.jitter": view.jitter is not None,
        "view.grey_probability": view.grey_probability > 0,
    }
    return tuple(name for name, is_drawn in draws.items() if is_drawn)
