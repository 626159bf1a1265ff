"""What is read and how, as settings: the shard sets of a mixture, what fixes their order, workers, limits.

They import no torch, so that a whole recipe can be checked, and its shards counted, where there is none.
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
    """A shard set: what it holds and where it lies."""

    root: Root
    manifest: Manifest

    @property
    def counts(self) -> list[int]:
        """Give the samples of each shard."""
        return [shard.samples for shard in self.manifest.shards]


@dataclass(frozen=True)
class ReadingLimits:
    """How archives are read: where remote ones are kept, what a sample may weigh, how patient a transfer is."""

    cache_dir: Path | None = None
    max_bytes: int | None = None
    policy: TransferPolicy | None = None


class SourceConfig(BaseModel):
    """One shard set of a mixture; a root on its own will do for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str  # a folder, an http(s):// address, or a pipe: command with {name}
    manifest: Path | None = None  # where the manifest lies, if not at the root
    weight: PositiveFloat = 1.0

    @model_validator(mode="before")
    @classmethod
    def _root_alone(cls, given: Any) -> Any:
        return {"root": given} if isinstance(given, str) else given


def _one_alone(given: Any) -> Any:
    return (given,) if isinstance(given, str | dict | SourceConfig) else given


def _at_least_one(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    if not sources:
        raise ValueError("there must be at least one")
    return sources


class DataConfig(BaseModel):
    """What is read and in which order; lanes, block_shards, batch_size and sources fix the order, with a seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[SourceConfig, ...], BeforeValidator(_one_alone), AfterValidator(_at_least_one)]
    batch_size: PositiveInt  # of all ranks together
    lanes: PositiveInt = 16  # ranks x workers must divide it
    block_shards: PositiveInt = 4  # shards of a lane that are shuffled together
    workers: NonNegativeInt = 0  # processes per rank; 0 reads in the rank's own process
    prefetch_batches: PositiveInt = 2  # that each worker keeps ready
    pin_memory: bool = False  # for copies to a GPU beside its work; torch keeps and reuses such memory
    worker_timeout_s: PositiveFloat = 1800.0
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)  # of the window's samples
    bad_window_samples: PositiveInt = 2000
    bad_least_samples: PositiveInt = 200  # no judgement before so many
    max_bytes: PositiveInt = 1 << 28  # of one sample's members together
    cache_dir: Path | None = None  # where shards from elsewhere are kept
    transfer: TransferPolicy = TransferPolicy()

    def open_sources(self) -> tuple[ShardSource, ...]:
        """Load the manifests."""
        return tuple(
            ShardSource(parse_root(source.root), Manifest.load(source.manifest or source.root))
            for source in self.sources
        )

    def reading_limits(self) -> ReadingLimits:
        """Give what the archives need to know."""
        return ReadingLimits(self.cache_dir, self.max_bytes, self.transfer)


class StreamConfig(DataConfig):
    """A stream is its data and a seed."""

    seed: NonNegativeInt = 0
