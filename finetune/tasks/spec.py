"""Recipe settings common to all tasks on pretrained backbones; importable without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.sample_spec import Modality, SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec


class TaskSpec(ObjectiveSpec):
    """An objective that starts from pretrained backbones and can be evaluated.

    A subclass needs `kind`, `builds`, `evaluates` and `predicts`; the other class variables and the methods have
    defaults for a task that takes views of videos.
    """

    begins: ClassVar[str] = "trichord.finetune.loading:load_initial_weights"
    evaluates: ClassVar[str]  # "module:function" that evaluates it on shards
    predicts: ClassVar[str]  # "module:function" that returns the prediction for each sample of a batch
    prepares: ClassVar[str | None] = None  # "module:function" that sets up a new task from its data
    draws: ClassVar[str | None] = None  # "module:function" that draws figures of an evaluation
    page_predicts: ClassVar[str | None] = None  # "module:function" that computes the web page's answer for one video
    page_section: ClassVar[str | None] = None  # the section of the page that shows its predictions
    takes_class_names: ClassVar[bool] = False  # `classes` is read from the shards where a recipe does not give it
    takes_features: ClassVar[bool] = False  # whether it can be trained on stored features (see `OnTokens`)

    inputs: tuple[Modality, ...] = Field(default=("video",), min_length=1)
    """Modalities that the task takes, each of which needs its backbone."""
    clips: ClipSpec
    """How clips are taken from a video in training."""
    view: ViewSpec
    """Transforms of the frames of a clip in training."""
    test_clips: ClipSpec
    """How clips are taken from a video in evaluation."""
    test_view: ViewSpec
    """Transforms of the frames of a clip in evaluation."""
    frozen: bool = False
    """Keep the weights of the backbones fixed and train only what is added to them (a probe)."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint by name: one for each modality."""
        return self.inputs

    @property
    def head_words(self) -> str:
        """A short description of the head on the backbones."""
        return self.kind

    @property
    def trained_words(self) -> str:
        """A short description of what is trained."""
        return "head" if self.frozen else "all"

    @property
    def needs_grid(self) -> bool:
        """Whether it needs more of a backbone than the pooled vector."""
        return False

    @property
    def random_settings(self) -> tuple[str, ...]:
        """The settings that randomise a backbone's inputs in training."""
        return random_settings_of(self.clips, self.view)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes it distinguishes, if any."""
        return None

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain in training."""
        return SampleSpec(views=ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips))

    def test_spec(self) -> SampleSpec:
        """Return what a sample must contain in an evaluation."""
        views = ViewsSpec(clips=self.test_clips, views=(self.test_view,), flips=self.flips)
        return SampleSpec(views=views, timeline=True, is_training=False)

    def encoded_views(self) -> tuple[ViewsSpec, ...]:
        return (self.sample_spec().views, self.test_spec().views)

    def feature_complaints(self) -> Iterator[str]:
        """Yield the reasons why features of its backbones cannot be stored."""
        if not self.takes_features:
            yield f"objective.kind={self.kind} cannot be trained on stored features: set features=null"
        elif not self.frozen:
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
