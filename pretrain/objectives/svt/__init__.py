"""Recipe settings of SVT; importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trichord.pretrain.engine.schedules import Constant, Cosine, Schedule
from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import SvtWindow
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec, svt_views

_GLOBAL, _LOCAL = svt_views().views[0], svt_views().views[-1]


class SvtSpec(ObjectiveSpec):
    """SVT with the settings of the published weights, where the paper and the released code agree.

    Where they differ: views have the paper's frames (8 and 16, locals 2 to 16; the code has 8 everywhere), the loss is
    the code's mean (the paper's sum, 18 times as large, would trigger gradient clipping), and the teacher has no
    stochastic depth (the code leaves it on, although it blurs the targets, and DINO, on which SVT is based, has none).
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.svt.objective:Svt.of_run"

    kind: Literal["svt"] = "svt"
    window: SvtWindow = SvtWindow()
    """The time span of a sample within its video, and the clips that are taken from it."""
    global_view: ViewSpec = _GLOBAL
    """Transforms of the two global clips, which both teacher and student get."""
    local_view: ViewSpec = _LOCAL
    """Transforms of the local clips, which only the student gets."""
    hidden_dim: PositiveInt = 2048
    """Width of the two hidden layers of the projection head."""
    bottleneck_dim: PositiveInt = 256
    """Number of features of the vectors that are compared with the prototypes."""
    prototypes: int = Field(default=65536, ge=2)
    """Number of prototypes, which are the classes of the loss."""
    norm_last_layer: bool = True
    """Keep the norm of the prototypes at 1; larger norms can make training unstable."""
    frozen_last_layer_steps: NonNegativeInt = 0  # the released code freezes it for the first of its 20 epochs
    """Number of steps at the start in which the prototypes are frozen; 0 trains them from the first step."""
    student_temperature: PositiveFloat = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: Schedule = Constant(value=0.04)
    """Temperature of the teacher's softmax at each step, as a number or a schedule; lower it if the teacher's output
    becomes uniform, raise it if all clips get the same prototype."""
    teacher_momentum: Schedule = Cosine(start=0.996, end=1.0)
    """Share of its own weights that the teacher keeps at each step, as a number or a schedule; the rest comes from the
    student."""
    teacher_drop_path: bool = False
    """Also apply stochastic depth to the teacher, as the released code does."""
    centre_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the old centre of the teacher's logits that is kept at each step; lower it if all clips get the same
    prototype."""
    loss: Literal["code", "paper"] = "code"
    """`code` is the mean of the cross-entropies of all pairs of views, as in the released code; `paper` is their sum,
    of 18 pairs with 2 global and 8 local views."""

    @model_validator(mode="after")
    def _has_the_views(self) -> SvtSpec:
        for name, view in (("global_view", self.global_view), ("local_view", self.local_view)):
            if view.crop.count > 1:
                raise ValueError(f"{name}: a crop of kind 'three' makes three views of one clip, expected one")
        self.sample_spec()  # which has its own rules about flips
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint, the one to export first: the teacher, which is better throughout training."""
        return ("teacher", "student")

    @property
    def views(self) -> int:
        """The number of views of a sample; the first two are global."""
        return 2 + len(self.window.local_frames)

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain."""
        views = (self.global_view,) * 2 + (self.local_view,) * len(self.window.local_frames)
        return SampleSpec(views=ViewsSpec(clips=self.window, views=views, flips=self.flips))
