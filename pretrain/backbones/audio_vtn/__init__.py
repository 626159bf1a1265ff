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
    slice_frames: PositiveInt = 32  # spectrogram frames per slice
    slice_step: PositiveInt = 16  # from one slice to the next
    network: str = "resnet18"  # any model name of timm
    depth: PositiveInt = 3
    heads: PositiveInt = 8
    attention: Literal["local", "full"] = "local"
    window: PositiveInt = 18  # slices that a slice attends to: half before it, half after
    dropout: float = Field(default=0.1, ge=0, lt=1)

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
