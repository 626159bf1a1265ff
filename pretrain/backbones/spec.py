"""The settings that backbones of all families have in common; importable without torch."""

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
    """The base class of the specs of all modalities. A family adds its `kind` and its own fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    activation_checkpointing: bool = False
    """Recompute the activations of each block in the backward pass, which saves memory and costs compute; the results
    are the same."""

    setting: ClassVar[str]  # its key in a recipe
    init_setting: ClassVar[str]  # the key of its initial weights
    builds: ClassVar[str]  # "module:class" of the network, imported when one is built
    file_names: ClassVar[str] = ""  # "module:families", the tensor names of its released files
    hugging_face: ClassVar[str] = ""  # "module:function" that converts it to a model of transformers, for the export

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        """Return the published sizes by name."""
        return {}


class BackboneSpec(EncoderSpec):
    """A video backbone."""

    setting: ClassVar[str] = "backbone"
    init_setting: ClassVar[str] = "init_from"

    frames: PositiveInt = 8
    """Number of frames of a clip for which position tables are made; clips of other lengths are accepted."""
    size: PositiveInt = 224
    """Height and width of a view in pixels for which position tables are made; views of other sizes are accepted."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability of skipping the last block's residual branch in training (stochastic depth); it grows linearly from 0
    in the first block."""

    def build(self) -> Backbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: Backbone = load(self.builds)(self)
        return built

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one view of the configured size."""
        return (3, self.frames, self.size, self.size)

    @property
    def input_words(self) -> str:
        """The input shape in readable form."""
        return f"{self.frames} x {self.size}²"

    @property
    def size_step(self) -> int:
        """The number of pixels of which sizes of views must be multiples."""
        return 1

    @property
    def frame_step(self) -> int:
        """The number of which frame counts must be multiples."""
        return 1

    @property
    def fewest_frames(self) -> int:
        """The minimum number of frames of a clip."""
        return self.frame_step


class AudioBackboneSpec(EncoderSpec):
    """An audio backbone, which encodes log-mel spectrograms."""

    setting: ClassVar[str] = "audio_backbone"
    init_setting: ClassVar[str] = "audio_init_from"

    frames: PositiveInt = 1024
    """Number of frames of a spectrogram for which position tables are made; spectrograms of other lengths are
    accepted."""
    mels: PositiveInt = 128
    """Number of mel filters of a spectrogram, which must equal `sound.mels` of the objective."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability of skipping the last block's residual branch in training (stochastic depth); it grows linearly from 0
    in the first block."""

    def build(self) -> AudioBackbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: AudioBackbone = load(self.builds)(self)
        return built

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one spectrogram of the configured size."""
        return (self.frames, self.mels)

    @property
    def input_words(self) -> str:
        """The input shape in readable form."""
        return f"{self.frames} x {self.mels} mels"


class TextBackboneSpec(EncoderSpec):
    """A text encoder."""

    setting: ClassVar[str] = "text_backbone"
    init_setting: ClassVar[str] = "text_init_from"

    takes_clip_weights: ClassVar[bool] = False  # whether text_init_from can load a CLIP's text encoder into it

    def build(self) -> TextBackbone:
        """Build the network with initial weights drawn from torch's generator."""
        built: TextBackbone = load(self.builds)(self)
        return built


@dataclass(frozen=True)
class Size:
    """A published size of a backbone."""

    spec: BackboneSpec | AudioBackboneSpec
    weights: str  # whose released files fit it
    giga_macs: float | None = None  # multiply-adds of one view, as published or counted elsewhere

    @property
    def settings(self) -> list[str]:
        """The recipe settings that select this size."""
        kind = {"kind": self.spec.kind} | self.spec.model_dump(mode="json", exclude_defaults=True)
        return [f"{self.spec.setting}.{name}={value}" for name, value in kind.items()]


FROM_IMAGES = "starts from an image ViT (timm, DINO)"
FROM_RESNET = "starts from an image ResNet (torchvision, timm)"
NONE_RELEASED = "none released"
