"""What a recipe says of any backbone, whatever its family; read without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Spec(BaseModel):
    """What recipes, views and the dry run ask of every family. A family adds its `kind` and fields of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: PositiveInt = 8  # that it is made for, as tables of positions are; clips may have others
    size: PositiveInt = 224  # that it is made for, in pixels; clips may have others
    drop_path: float = Field(default=0.1, ge=0, lt=1)  # of the last block; it grows from 0 in the first
    activation_checkpointing: bool = False  # forget what happens within a block and compute it again going backward

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
