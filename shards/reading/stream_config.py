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
from trichord.shards.reading.root import Root, parse_root
from trichord.shards.reading.transfer import TransferPolicy

_MOST_CLIPS = 1 << 20  # of a batch; the reasons for a wrong number go through its divisors


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

    root: str
    """Where the shards are: a folder, an http(s):// address, or a `pipe:` command that writes the shard {name} to
    standard output, and that runs out of a file only with `--allow-commands`."""
    manifest: Path | None = None
    """Path of the manifest of the shards, if it is not beside them; null looks for it at the root."""
    weight: PositiveFloat = 1.0
    """How often samples are taken from this source, relative to the weights of the other sources."""

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
    """Shard sets that are mixed; one root may be written instead of a list."""
    batch_size: Annotated[int, Field(gt=0, le=_MOST_CLIPS)]
    """Number of samples of a weight update, over all ranks together."""
    lanes: Annotated[int, Field(gt=0, le=_MOST_CLIPS)] = 16
    """Number of stream lanes, independent sequences of samples that fix the order for any number of ranks; a divisor of
    `batch_size`, and a multiple of ranks x workers."""
    block_shards: PositiveInt = 4
    """Number of shards of a lane whose samples are shuffled together; more of them shuffle more thoroughly and are read
    at the same time."""
    workers: NonNegativeInt = 0
    """Number of reader processes of each rank; 0 reads in the rank's own process."""
    prefetch_batches: PositiveInt = 2
    """Number of batches that each worker keeps ready."""
    pin_memory: bool = False
    """Put batches in page-locked memory, which is copied to a GPU asynchronously; torch keeps and reuses such
    memory."""
    worker_timeout_s: PositiveFloat = 1800.0
    """Seconds without data from the workers after which the run stops with an error."""
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    """Largest share of unusable samples among the latest `bad_window_samples`, above which the run stops; 0 stops at
    the first one."""
    bad_window_samples: PositiveInt = 2000
    """Number of latest samples among which unusable ones are counted."""
    bad_least_samples: PositiveInt = 200
    """Number of samples that must have been read before `max_bad_fraction` applies."""
    max_bytes: PositiveInt = 1 << 28
    """Largest size in bytes of all files of a sample together; a larger sample counts as unusable."""
    cache_dir: Path | None = None
    """Folder where copies of remote shards are kept; null transfers a shard each time that it is opened."""
    transfer: TransferPolicy = TransferPolicy()
    """Retries and timeouts of transfers of remote shards."""

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
    """Seed of the order of samples."""
