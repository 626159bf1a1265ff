"""What a recipe says of any task on pretrained backbones; read without torch."""

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
    """An objective that begins with pretrained backbones and can be evaluated."""

    begins: ClassVar[str] = "trichord.finetune.init:begin"
    prepares: ClassVar[str]  # "module:function", which gives a new task what it has to know of its data
    predicts: ClassVar[str]  # "module:function", which answers the page about one video
    page_section: ClassVar[str]  # where its answers stand
    evaluates: ClassVar[str]  # "module:function", which evaluates it on shards

    inputs: tuple[Modality, ...] = Field(default=("video",), min_length=1)
    clips: ClipSpec  # in training
    view: ViewSpec
    test_clips: ClipSpec
    test_view: ViewSpec
    frozen: bool = False  # backbones stay as they are: a probe

    @property
    @abstractmethod
    def head_words(self) -> str:
        """In short, what is on the backbones."""

    @property
    @abstractmethod
    def trained_words(self) -> str:
        """In short, what is trained."""

    @property
    @abstractmethod
    def needs_grid(self) -> bool:
        """Whether it takes more of a backbone than the pooled vector."""

    @property
    @abstractmethod
    def random_settings(self) -> tuple[str, ...]:
        """The settings by which a backbone is given other inputs at every step."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that it tells apart, if it does."""
        return None

    @abstractmethod
    def test_spec(self) -> SampleSpec:
        """Return what a sample must bring to an evaluation."""

    def views_seen(self) -> tuple[ViewsSpec, ...]:
        return (self.sample_spec().views, self.test_spec().views)

    def feature_complaints(self) -> Iterator[str]:
        """Yield why features of its backbones cannot be kept."""
        if not self.frozen:
            yield "features are of a backbone that stays as it is: set objective.frozen=true, or leave features out"
        elif self.random_settings:
            drawn = ", ".join(f"objective.{name}" for name in self.random_settings)
            yield f"features are computed once, and {drawn} would draw anew at every step: set what draws nothing"

    def check(self, config: Any) -> str:
        """Raise UserError for data that it cannot be trained or evaluated on; return a line on what it learns."""
        return f"{self.kind}: {self.head_words}"


def random_settings_of(clips: ClipSpec, view: ViewSpec) -> tuple[str, ...]:
    """Return the settings by which chance decides what is seen of a video."""
    draws = {
        "clips.placement": clips.is_random,
        "view.crop": view.crop.is_random,
        "view.flip_probability": view.flip_probability > 0,
        "view.rand_augment": view.rand_augment is not None,
        "view.jitter": view.jitter is not None,
        "view.grey_probability": view.grey_probability > 0,
    }
    return tuple(name for name, is_drawn in draws.items() if is_drawn)
