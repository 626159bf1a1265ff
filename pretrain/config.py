"""The config of a run, validated as a whole before anything is built; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from trichord.core.errors import UserError
from trichord.pretrain.backbones.registry import AnyAudioBackbone, AnyBackbone, AnyTextBackbone
from trichord.pretrain.backbones.spec import AudioBackboneSpec, BackboneSpec, EncoderSpec
from trichord.pretrain.engine.config import (
    CheckpointConfig,
    EngineConfig,
    InitFrom,
    LogConfig,
    OptimiserConfig,
    deepspeed_config,
)
from trichord.pretrain.engine.schedules import ScheduleSpec
from trichord.pretrain.objectives.registry import AnyObjective
from trichord.shards.reading.order import nearest_divisors
from trichord.shards.reading.stream_config import DataConfig, StreamConfig

if TYPE_CHECKING:
    from trichord.pretrain.objectives.base import Objective
    from trichord.shards.reading.batch import SampleTransform


class RunConfig(BaseModel):
    """The config of a run; with the same data, CPU model, ranks and threads, the same config gives the same weights.

    The engine uses only the fields and methods of this class; fine-tuning adds its objectives in a subclass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: NonNegativeInt = 0
    """Seed of the order of samples, their augmentation and the random initial weights."""
    steps: PositiveInt
    """Number of weight updates; the run ends after the last one."""
    data: DataConfig
    """Where samples come from, and how they are ordered and read."""
    backbone: AnyBackbone
    """Encoder of video frames, selected by `kind`."""
    audio_backbone: AnyAudioBackbone | None = None
    """Encoder of spectrograms, for an objective or task that uses audio; null for none."""
    text_backbone: AnyTextBackbone | None = None
    """Encoder of texts, for an objective that uses text; null for none."""
    objective: AnyObjective
    """What is learnt: the contents of a sample and the loss, selected by `kind`."""
    optimiser: OptimiserConfig
    """The optimiser, its schedules, and the parameters that are treated differently."""
    engine: EngineConfig = EngineConfig()
    """How a step is computed: precision, partitioning over ranks, accumulation, compilation."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved, and which ones are kept."""
    log: LogConfig = LogConfig()
    """How often metrics are logged, and where besides the run folder."""
    init_from: InitFrom | None = None
    """Initial weights of the video backbone; null starts from random weights."""
    audio_init_from: InitFrom | None = None
    """Initial weights of the audio backbone; null starts from random weights."""
    text_init_from: InitFrom | None = None
    """Initial weights of a text backbone of kind `clip`, read from the text encoder in a file of CLIP or X-CLIP; null
    starts from random weights."""

    def stream(self) -> StreamConfig:
        """Return the config of the sample stream, in the order of the run's seed."""
        return StreamConfig.model_validate({**dict(self.data), "seed": self.seed})

    def transform(self) -> SampleTransform:
        """Return the transform that makes an example of a sample."""
        from trichord.shards.sample import ClipTransform

        return ClipTransform(self.objective.sample_spec())

    def backbone_of(self, part: str) -> BackboneSpec | AudioBackboneSpec:
        """Return the settings of the encoder in a part of a checkpoint."""
        return self.audio_backbone if part == "audio" and self.audio_backbone else self.backbone

    def build_objective(self) -> Objective:
        """Build the objective with random weights from torch's generator."""
        return self.objective.build(self)

    def begin(self, objective: Objective) -> None:
        """Load the initial weights into a new objective; a resumed one loads its checkpoint instead."""
        self.objective.begin(self, objective)

    @property
    def checkpoints_activations(self) -> bool:
        """Whether the backbones use activation checkpointing: they recompute their blocks in the backward pass."""
        return all(spec.activation_checkpointing for spec in self._encoders().values())

    def with_checkpointing(self, checkpoints: bool) -> Self:
        """Return the same config with or without activation checkpointing."""
        update = {"activation_checkpointing": checkpoints}
        return self.model_copy(update={name: spec.model_copy(update=update) for name, spec in self._encoders().items()})

    def _encoders(self) -> dict[str, EncoderSpec]:
        own = {
            "backbone": self.backbone,
            "audio_backbone": self.audio_backbone,
            "text_backbone": self.text_backbone,
        }
        return {name: spec for name, spec in own.items() if spec is not None}

    @model_validator(mode="after")
    def _parts_agree(self) -> RunConfig:
        complaints = [
            *self._batch_complaints(),
            *self._view_complaints(),
            *self._sound_complaints(),
            *self._text_complaints(),
            *self._schedule_complaints(),
            *self.objective.complaints(self),
        ]
        if complaints:
            raise ValueError("\n".join(complaints))
        return self

    def _batch_complaints(self) -> Iterator[str]:
        batch_size, lanes = self.data.batch_size, self.data.lanes
        if batch_size % lanes:
            yield (
                f"data.batch_size={batch_size} is not a multiple of data.lanes={lanes}. Nearest: "
                f"data.batch_size {_nearest_multiples(batch_size, lanes)}, "
                f"or data.lanes {nearest_divisors(batch_size, lanes)}"
            )
        try:
            deepspeed_config(self.engine, batch_size, world_size=1)
        except UserError as error:
            yield str(error)

    def _view_complaints(self) -> Iterator[str]:
        seen, backbone = self.objective.encoded_views(), self.backbone
        for size in sorted({view.crop.size for views in seen for view in views.views}):
            if size % backbone.size_step:
                yield (
                    f"a view of {size} pixels is not a multiple of the size step {backbone.size_step} of backbone "
                    f"{backbone.kind}. Nearest sizes: {_nearest_multiples(size, backbone.size_step)}"
                )
        for frames in sorted({frames for views in seen for frames in views.clips.frame_counts}):
            if frames % backbone.frame_step:
                yield (
                    f"a clip of {frames} frames is not a multiple of the frame step {backbone.frame_step} of backbone "
                    f"{backbone.kind}. Nearest: {_nearest_multiples(frames, backbone.frame_step)} frames"
                )
            elif frames < backbone.fewest_frames:
                yield (
                    f"a clip of {frames} frames is too short for backbone {backbone.kind} with these settings: "
                    f"it needs at least {backbone.fewest_frames} frames"
                )

    def _sound_complaints(self) -> Iterator[str]:
        sound = self.objective.sample_spec().sound
        if sound and not self.audio_backbone:
            yield f"objective.kind={self.objective.kind} uses audio: set audio_backbone.kind as well"
        elif self.audio_backbone and not sound:
            yield f"objective.kind={self.objective.kind} does not use audio: remove audio_backbone"
        elif self.audio_backbone and sound and sound.mels != self.audio_backbone.mels:
            yield (
                f"objective.sound.mels={sound.mels} and audio_backbone.mels={self.audio_backbone.mels} must be equal: "
                "they are the height of the spectrograms"
            )
        if self.audio_init_from and not self.audio_backbone:
            yield "audio_init_from needs an audio_backbone, and there is none"

    def _text_complaints(self) -> Iterator[str]:
        reads = self.objective.reads_text
        if reads and not self.text_backbone:
            yield f"objective.kind={self.objective.kind} uses text: set text_backbone.kind as well"
        elif self.text_backbone and not reads:
            yield f"objective.kind={self.objective.kind} does not use text: remove text_backbone"
        if self.text_init_from and (not self.text_backbone or not self.text_backbone.takes_clip_weights):
            yield "text_init_from needs a text_backbone of kind clip, and there is none"

    def _schedule_complaints(self) -> Iterator[str]:
        for name, schedule in _schedules(self):
            yield from schedule.complaints(name, self.steps)


def _nearest_multiples(number: int, step: int) -> str:
    """Return the multiples of a step on both sides of a number, in words."""
    return " or ".join(str(each) for each in (number // step * step, (number // step + 1) * step) if each)


def _schedules(config: BaseModel, above: str = "") -> Iterator[tuple[str, ScheduleSpec]]:
    """Yield all schedules of a config with their dotted names."""
    for name, value in config:
        if isinstance(value, ScheduleSpec):
            yield f"{above}{name}", value
        elif isinstance(value, BaseModel):
            yield from _schedules(value, f"{above}{name}.")
