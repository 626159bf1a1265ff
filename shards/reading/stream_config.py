"""Settings of reading: the shard sets of a mixture, what determines the sample order, workers, limits.

The module does not import torch, so that a recipe can be checked, and its shards counted, where torch is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.roots import Root, parse_root
from trichord.shards.reading.transfer import TransferPolicy


@dataclass(frozen=True)
class ShardSource:
    """A shard set: its location and its contents."""

    root: Root
    manifest: Manifest

    @property
    def counts(self) -> list[int]:
        """Number of samples in each shard."""
        return [shard.samples for shard in self.manifest.shards]


@dataclass(frozen=True)
class ReadingLimits:
    """Limits of reading archives: the cache of remote ones, the largest sample, retries and timeouts of transfers."""

    cache_dir: Path | None = None
    max_bytes: int | None = None
    policy: TransferPolicy | None = None


class SourceConfig(BaseModel):
    """One shard set of a mixture; a string is taken as its root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str  # a folder, an http(s):// address, or a pipe: command with {name}
    manifest: Path | None = None  # where the manifest is, if not at the root
    weight: PositiveFloat = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_root(cls, value: Any) -> Any:
        return {"root": value} if isinstance(value, str) else value


def _as_sources(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict | SourceConfig) else value


def _at_least_one(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    if not sources:
        raise ValueError("expected at least one source")
    return sources


class DataConfig(BaseModel):
    """Settings of the data. The sample order is determined by lanes, block_shards, batch_size, sources and the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[SourceConfig, ...], BeforeValidator(_as_sources), AfterValidator(_at_least_one)]
    batch_size: PositiveInt  # of all ranks together
    lanes: PositiveInt = 16  # stream lanes; must be divisible by ranks x workers
    block_shards: PositiveInt = 4  # shards of a lane that are shuffled together
    workers: NonNegativeInt = 0  # processes per rank; with 0 the rank's own process reads
    prefetch_batches: PositiveInt = 2  # batches that each worker keeps ready
    pin_memory: bool = False  # for asynchronous copies to a GPU; torch keeps and reuses such memory
    worker_timeout_s: PositiveFloat = 1800.0
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)  # of the window's samples
    bad_window_samples: PositiveInt = 2000
    bad_least_samples: PositiveInt = 200  # max_bad_fraction applies only from this many samples on
    max_bytes: PositiveInt = 1 << 28  # of all members of one sample together
    cache_dir: Path | None = None  # where remote shards are kept
    transfer: TransferPolicy = TransferPolicy()

    def open_sources(self) -> tuple[ShardSource, ...]:
        """Load the manifests and return the sources."""
        return tuple(
            ShardSource(parse_root(source.root), Manifest.load(source.manifest or source.root))
            for source in self.sources
        )

    def reading_limits(self) -> ReadingLimits:
        """Return the limits that apply to archives."""
        return ReadingLimits(self.cache_dir, self.max_bytes, self.transfer)


class StreamConfig(DataConfig):
    """Settings of a stream: data and a seed."""

    seed: NonNegativeInt = 0
