"""What is embedded, and what an index is made of, as settings; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

Sense = Literal["video", "text", "audio"]
DType = Literal["float16", "float32"]
Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"]
SENSES: tuple[Sense, ...] = ("video", "text", "audio")
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Windows(_Spec):
    """Windows of videos, each a row of its own, so that moments are found."""

    seconds: PositiveFloat
    stride_s: PositiveFloat


class Embedding(_Spec):
    """What the parts of a folder have in common; what decides vectors is all in it."""

    version: Literal[1] = 1
    model: str  # the hash of the weights
    run: str  # where they were
    step: int | None
    dim: PositiveInt
    dtype: DType
    senses: tuple[Sense, ...]
    root: str  # of the shards
    shards: tuple[str, ...]  # one part for each, by number
    digest: str  # of their manifest
    look: str
    windows: Windows | None


class Settings(_Spec):
    """How an index is searched."""

    probes: NonNegativeInt = 0  # of IVF's lists (nprobe)
    candidates: NonNegativeInt = 0  # of HNSW (efSearch)
    factor: PositiveFloat = 1.0  # so many times k are looked at again in their stored vectors


class Measured(_Spec):
    """How a segment's search was tuned: recall@10 against an exact search, on other queries than it was tuned on."""

    queries: NonNegativeInt
    of: str  # captions, or where there are none the rows themselves
    recall: float | None
    target: float


class FileEntry(_Spec):
    """A file of an index, as it was written."""

    bytes: NonNegativeInt
    sha256: str


class SegmentEntry(_Spec):
    """Rows that were written together and never change; those that are removed since are in a list beside them."""

    name: str = Field(pattern=r"^segment-\d{5}$")
    count: PositiveInt
    kind: Kind
    settings: Settings
    measured: Measured
    files: dict[str, FileEntry]
    removed: str | None = Field(default=None, pattern=r"^removed-\d{5}-\d{5}\.safetensors$")
    gone: NonNegativeInt = 0  # rows that are removed


class Catalogue(_Spec):
    """What an index is: the model that its vectors are of, and its segments. It is written last, and at once."""

    version: Literal[1] = 1
    model: str
    run: str
    dim: PositiveInt
    dtype: DType
    sense: Sense
    next_number: PositiveInt = 1  # of files, none of which is ever used again
    segments: tuple[SegmentEntry, ...] = ()

    @property
    def count(self) -> int:
        """Rows that can be found."""
        return sum(segment.count - segment.gone for segment in self.segments)
