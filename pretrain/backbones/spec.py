"""What a recipe says of any backbone, whatever its family; read without torch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from trichord.core.registry import load

if TYPE_CHECKING:
    from trichord.pretrain.backbones.base import AudioBackbone, Backbone, TextBackbone


class EncoderSpec(BaseModel, ABC):
    """What the specs of all modalities have in common. A family adds its `kind` and fields of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    activation_checkpointing: bool = False  # recompute each block's activations in the backward pass

    setting: ClassVar[str]  # where a recipe has it
    init_setting: ClassVar[str]  # and where its initial weights
    builds: ClassVar[str]  # "module:class" of the network, imported when one is built
    file_names: ClassVar[str] = ""  # "module:families", what its released files call their tensors

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        """Return the published sizes by name."""
        return {}


class BackboneSpec(EncoderSpec):
    """A video backbone."""

    setting: ClassVar[str] = "backbone"
    init_setting: ClassVar[str] = "init_from"

    frames: PositiveInt = 8  # that it is made for, as tables of positions are; clips may have others
    size: PositiveInt = 224  # that it is made for, in pixels; clips may have others
    drop_path: float = Field(default=0.1, ge=0, lt=1)  # of the last block; it grows from 0 in the first

    def build(self) -> Backbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: Backbone = load(self.builds)(self)
        return built

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one view that it is made for."""
        return (3, self.frames, self.size, self.size)

    @property
    def input_words(self) -> str:
        """The same for people."""
        return f"{self.frames} x {self.size}²"

    @property
    def size_step(self) -> int:
        """Sizes of views must be multiples of this many pixels."""
        return 1

    @property
    def frame_step(self) -> int:
        """Numbers of frames must be multiples of this."""
        return 1

    @property
    def fewest_frames(self) -> int:
        """Clips must have this many frames at least."""
        return self.frame_step


class AudioBackboneSpec(EncoderSpec):
    """An encoder of log-mel spectrograms."""

    setting: ClassVar[str] = "audio_backbone"
    init_setting: ClassVar[str] = "audio_init_from"

    frames: PositiveInt = 1024  # of the spectrogram that it is made for, as tables of positions are; others go in too
    mels: PositiveInt = 128
    drop_path: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> AudioBackbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: AudioBackbone = load(self.builds)(self)
        return built

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one spectrogram that it is made for."""
        return (self.frames, self.mels)

    @property
    def input_words(self) -> str:
        """The same for people."""
        return f"{self.frames} x {self.mels} mels"


class TextBackboneSpec(EncoderSpec):
    """An encoder of text."""

    setting: ClassVar[str] = "text_backbone"
    init_setting: ClassVar[str] = "text_init_from"

    takes_clip_weights: ClassVar[bool] = False  # whether text_init_from can give it the text encoder of a CLIP

    def build(self) -> TextBackbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: TextBackbone = load(self.builds)(self)
        return built


@dataclass(frozen=True)
class Size:
    """A published size of a backbone."""

    spec: BackboneSpec | AudioBackboneSpec
    weights: str  # whose files fit it
    giga_macs: float | None = None  # multiplications with an addition, of one view, as published or counted elsewhere

    @property
    def settings(self) -> list[str]:
        """The settings of a recipe that make it."""
        kind = {"kind": self.spec.kind} | self.spec.model_dump(mode="json", exclude_defaults=True)
        return [f"{self.spec.setting}.{name}={value}" for name, value in kind.items()]


FROM_IMAGES = "begins with a ViT of images (timm, DINO)"
FROM_RESNET = "begins with a ResNet of images (torchvision, timm)"
NONE_RELEASED = "none were released"
