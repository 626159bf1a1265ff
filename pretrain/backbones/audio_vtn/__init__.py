"""The settings of a VTN for audio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import NONE_RELEASED, AudioBackboneSpec, Size
from trichord.pretrain.backbones.vtn import VtnSpec


class AudioVtnSpec(AudioBackboneSpec):
    """VTN for audio: an image network for each time slice and a Longformer over slices."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.audio_vtn.model:AudioVtn"

    kind: Literal["audio_vtn"] = "audio_vtn"
    slice_frames: PositiveInt = 32
    """Number of spectrogram frames of a time slice."""
    slice_step: PositiveInt = 16
    """Number of spectrogram frames from the start of one slice to the next; below `slice_frames`, slices overlap."""
    network: str = "resnet18"
    """Image network for each slice: the name of a model of timm."""
    depth: PositiveInt = 3
    """Number of Longformer layers over slices."""
    heads: PositiveInt = 8
    """Number of attention heads in the layers over slices, which must divide the features of the image network."""
    attention: Literal["local", "full"] = "local"
    """Attention among slices: `local` within `window`, `full` among all of them; the class token always attends to
    all."""
    window: PositiveInt = 18
    """Number of slices that a slice attends to under local attention, half of them before it and half after; even."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate in the layers over slices."""

    @property
    def over_time(self) -> VtnSpec:
        """The settings as a VTN whose frames are slices."""
        return VtnSpec(
            frame_backbone=self.network, depth=self.depth, heads=self.heads, attention=self.attention,
            window=self.window, dropout=self.dropout, drop_path=self.drop_path, size=self.mels,
            activation_checkpointing=self.activation_checkpointing,
        )  # fmt: skip

    @model_validator(mode="after")
    def _is_possible(self) -> AudioVtnSpec:
        if self.frames < self.slice_frames:
            raise ValueError(f"expected frames of at least a slice of {self.slice_frames}, found {self.frames}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {"audio-vtn-resnet18": Size(cls(), NONE_RELEASED)}
