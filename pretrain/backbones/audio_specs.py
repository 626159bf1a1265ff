"""The audio encoders that a recipe may choose from, each told by its `kind`; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from trichord.pretrain.backbones.vtn_spec import VtnSpec


class _AudioSpec(BaseModel):
    """What they share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: PositiveInt = 1024  # of the spectrogram that it is made for, as tables of positions are; others go in too
    mels: PositiveInt = 128
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    activation_checkpointing: bool = False


class AstSpec(_AudioSpec):
    """AST, as it stands the one of AudioSet: a ViT-B/16 with a stride of 10 by 10, for 10.24 s."""

    kind: Literal["ast"] = "ast"
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch: PositiveInt = 16
    time_stride: PositiveInt = 10
    mel_stride: PositiveInt = 10

    @property
    def steps(self) -> int:
        """How many patches stand beside each other in time."""
        return (self.frames - self.patch) // self.time_stride + 1

    @property
    def bands(self) -> int:
        """How many patches stand above each other."""
        return (self.mels - self.patch) // self.mel_stride + 1

    @model_validator(mode="after")
    def _is_possible(self) -> AstSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if min(self.frames, self.mels) < self.patch:
            raise ValueError(f"expected frames and mels of at least a patch of {self.patch}")
        return self


class AudioResnetSpec(_AudioSpec):
    """A network of images that looks at the spectrogram as at a grey picture, as it stands a ResNet-18."""

    kind: Literal["audio_resnet"] = "audio_resnet"
    network: str = "resnet18"  # any of timm's convolutional networks


class AudioVtnSpec(_AudioSpec):
    """A network of images for each slice of time, and a Longformer over slices: VTN for sound."""

    kind: Literal["audio_vtn"] = "audio_vtn"
    slice_frames: PositiveInt = 32  # of the spectrogram that a slice holds
    slice_step: PositiveInt = 16  # from one slice to the next
    network: str = "resnet18"  # any of timm's names
    depth: PositiveInt = 3
    heads: PositiveInt = 8
    attention: Literal["local", "full"] = "local"
    window: PositiveInt = 18  # slices that a slice looks at: half of them before it, half after
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def over_time(self) -> VtnSpec:
        """What this is as a VTN whose frames are slices."""
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


AudioSpec = Annotated[AstSpec | AudioResnetSpec | AudioVtnSpec, Field(discriminator="kind")]
