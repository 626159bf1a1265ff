"""Settings of embeddings and contents of indexes; imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from trichord.core.registry import Registry

EmbeddedModality = Literal["video", "text", "audio"]
DType = Literal["float16", "float32"]
MODALITIES: tuple[EmbeddedModality, ...] = ("video", "text", "audio")
_KINDS = "trichord.finetune.retrieval.kinds"

# The kinds of search; plug-ins add subclasses of `Searcher`.
INDEX_KINDS: Registry[Any] = Registry(
    "indexes",
    {
        "flat": f"{_KINDS}:Flat",
        "hnsw": f"{_KINDS}:Graph",
        "ivf_flat": f"{_KINDS}:InvertedLists",
        "ivf_sq8": f"{_KINDS}:CompressedLists",
        "ivf_pq": f"{_KINDS}:QuantisedLists",
    },
)
Kind = Annotated[str, AfterValidator(INDEX_KINDS.check)]


_Dim = Annotated[int, Field(gt=0, le=1 << 16)]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
# Names of files stay within the folder of their segment.
_FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Windows(_Spec):
    """Windows of videos, each a separate row, so that moments can be found."""

    seconds: PositiveFloat
    """Length of a window in seconds."""
    stride_s: PositiveFloat
    """Seconds from the start of one window to the next."""


class Embedding(_Spec):
    """Settings shared by the parts of a folder, including everything that determines vectors."""

    version: Literal[1] = 1
    model: str  # the hash of the weights
    run: str  # where the weights were
    step: int | None
    dim: _Dim
    dtype: DType
    senses: tuple[EmbeddedModality, ...]
    root: str  # of the shards
    shards: tuple[str, ...]  # with one part each, numbered in this order
    digest: str  # of the manifest of the shards
    look: str
    windows: Windows | None


class SearchSettings(_Spec):
    """How an index is searched."""

    probes: Annotated[int, Field(ge=0, lt=1 << 31)] = 0  # number of IVF lists to search (nprobe)
    candidates: Annotated[int, Field(ge=0, le=1 << 20)] = 0  # for HNSW (efSearch)
    # factor * k candidates are rescored with their stored vectors.
    factor: Annotated[float, Field(ge=1, le=1 << 10)] = 1.0


class MeasuredRecall(_Spec):
    """Measured recall@10 of a segment against an exact search, on queries that were not used for tuning."""

    queries: NonNegativeInt
    of: str  # what the queries are: captions, or the rows themselves if there are none
    recall: float | None
    target: float


class IndexFile(_Spec):
    """Size and checksum of a file of an index."""

    bytes: _Count
    sha256: str


class SegmentEntry(_Spec):
    """Rows that were written together and never change; rows removed since are in a separate list."""

    name: str = Field(pattern=r"^segment-\d{5}$")
    count: Annotated[int, Field(gt=0, lt=1 << 53)]
    kind: Kind
    settings: SearchSettings
    measured: MeasuredRecall
    files: dict[_FileName, IndexFile]
    removed: str | None = Field(default=None, pattern=r"^removed-\d{5}-\d{5}\.safetensors$")
    gone: _Count = 0  # number of removed rows


class Catalogue(_Spec):
    """Description of an index: the model of its vectors, and its segments. It is written last and atomically."""

    version: Literal[1] = 1
    model: str
    run: str
    dim: _Dim
    dtype: DType
    sense: EmbeddedModality
    next_number: PositiveInt = 1  # for file names; a number is never used again
    segments: tuple[SegmentEntry, ...] = ()

    @property
    def count(self) -> int:
        """Number of rows that can be found."""
        return sum(segment.count - segment.gone for segment in self.segments)
