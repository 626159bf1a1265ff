"""Shard sets: building, opening and streaming them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trichord.api import checks
from trichord.core.command import command_line, validated
from trichord.core.errors import SampleError, UserError
from trichord.pretrain import collectives
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.building import write
from trichord.shards.building.plan import BuildSummary
from trichord.shards.building.transcode import Mode, Preset
from trichord.shards.layouts import LAYOUTS
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.root import allow_typed
from trichord.shards.reading.stream import BatchStream, batches
from trichord.shards.reading.stream_config import ShardSource, SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec, DenseWindow, Segments
from trichord.shards.transforms.crops import CentreCrop, RandomResizedCrop
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

_MOST_LANES = 16


def build_shards(
    layout: str,
    root: str | Path,
    out: str | Path,
    *,
    mode: Literal["copy", "remux", "encode"] = "copy",
    preset: Mapping[str, Any] | None = None,
    options: Mapping[str, object] | None = None,
    splits: Sequence[str] | None = None,
    samples_per_shard: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> BuildSummary:
    """Write a data set as WebDataset shards, one folder with a manifest for each split.

    A repeated call continues where an interrupted one stopped. The command ``trichord shards build`` has more options,
    and shares the work among jobs. Workers are new processes, so a script must start behind
    ``if __name__ == "__main__"``.

    Args:
        layout: The format of the data set, such as ``"csv"``, ``"folder"``, ``"kinetics"`` or ``"charades"``.
        root: Folder of the data set.
        out: Folder for the shards.
        mode: Copy each file, remux it to mp4 without re-encoding, or encode it for training.
        preset: Settings of ``mode="encode"``, such as ``{"short_side": 256, "max_fps": 16}``.
        options: Options of the layout, such as ``{"fold": 2}``.
        splits: Splits to write (default: all).
        samples_per_shard: Clips per shard (default: 512).
        workers: Number of processes (default: one per core).
        seed: Seed for shuffling clips across shards.
        limit: Maximum number of clips per split.

    Example:
        >>> summary = trichord.build_shards("csv", "films", "shards", workers=8)
        >>> trichord.open_shards("shards/train")
        ShardSet('shards/train': 24 clips in 3 shards, 18 classes)
    """
    checks.one_of(LAYOUTS, layout=layout)
    checks.one_of(map(str, Mode), mode=mode)
    checks.at_least(1, samples_per_shard=samples_per_shard, workers=workers, limit=limit)
    return write.build(
        layout,
        Path(root),
        Path(out),
        options=options,
        splits=None if splits is None else checks.texts("splits", splits),
        mode=mode,
        preset=validated("preset", preset or {}, Preset),
        samples_per_shard=samples_per_shard,
        workers=workers,
        seed=seed,
        limit=limit,
    )


@dataclass(frozen=True, repr=False)
class ShardSet:
    """A shard set that `open_shards` opened; iterating yields its samples in order, still encoded."""

    source: ShardSource

    def __repr__(self) -> str:
        shards, clips = len(self.source.manifest.shards), len(self)
        words = [f"{clips:,} clip{'s' * (clips != 1)} in {shards:,} shard{'s' * (shards != 1)}"]
        words += [f"{len(self.classes)} classes"] if self.classes else []
        return f"ShardSet({self.source.root.text!r}: {', '.join(words)})"

    def __len__(self) -> int:
        return self.source.manifest.samples

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes that labels number."""
        return self.source.manifest.classes

    def __iter__(self) -> Iterator[RawSample]:
        root = self.source.root
        for entry in self.source.manifest.shards:
            try:
                archive = open_archive(root, entry.name, size=entry.bytes, sha256=entry.sha256)
                try:
                    for position in range(entry.samples):
                        yield archive.read(position)
                finally:
                    archive.close()
            except SampleError as error:
                verify = command_line("shards", "verify", root.text)
                raise UserError(f"{entry.name} of {root.text} cannot be read: {error}. Next: {verify}") from error


def open_shards(root: str | Path) -> ShardSet:
    """Open a shard set: its length, its classes and its samples.

    Args:
        root: Folder or ``http(s)://`` address of shards with a ``manifest.json``, which ``trichord shards index``
            writes for shards of other tools.

    Example:
        >>> shards = trichord.open_shards("shards/train")
        >>> len(shards), shards.classes[:2]
        (24, ('move left', 'move right'))
        >>> sample = next(iter(shards))
        >>> sample.key, sample.annotation().captions[0]
        ('clip-000004', 'a red star grows')
    """
    allow_typed([root])
    config = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=1, lanes=1)
    return ShardSet(config.open_sources()[0])


def stream(
    shards: str | Path | Sequence[str | Path],
    *,
    batch_size: int,
    training: bool = True,
    frames: int = 8,
    clip_seconds: float | None = None,
    size: int = 224,
    audio: SoundSpec | None = None,
    sample: SampleSpec | None = None,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    lanes: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> BatchStream:
    """Stream decoded batches of shard sets.

    In training the stream is endless, shuffled and augmented by random crops and flips, and its order depends on
    nothing but the shards, the seed, the batch size and the step: not on ranks, workers or restarts. With
    ``training=False`` every clip comes exactly once, cropped at the centre; the last batches may hold padding, where
    ``batch.valid`` is False.

    With workers, which are new processes, a script must start behind ``if __name__ == "__main__"``.

    Args:
        shards: A shard set, or several as a mixture.
        batch_size: Clips per step of all ranks together; with ``training=False``, per rank.
        training: Whether to stream for training, or every clip once.
        frames: Frames of a clip.
        clip_seconds: Length of a clip (default: the whole video).
        size: Height and width of the frames in pixels.
        audio: Settings of log-mel spectrograms, such as ``KaldiFbank(frames=198)`` (default: no audio).
        sample: All settings of a sample in place of the five above.
        seed: Seed of order and augmentation.
        start_step: The first step, to continue a stream.
        workers: Reader processes per rank (0: this process).
        lanes: Parallel lanes of the shards, of which each reader serves some; must divide ``batch_size`` (default:
            the largest divisor of ``batch_size`` up to 16).
        rank: This process's rank (default: that of torch.distributed, or 0).
        world_size: The number of ranks (default: that of torch.distributed, or 1).

    Returns:
        An iterator of `Batch`; close it, or use it in a ``with`` statement.

    Example:
        >>> with trichord.stream("shards/train", batch_size=8, frames=8, size=112) as batches:
        ...     batch = next(batches)
        >>> batch.video[0].shape, batch.video[0].dtype, batch.text[0]
        (torch.Size([8, 3, 8, 112, 112]), torch.uint8, 'a red star grows')
    """
    checks.at_least(1, batch_size=batch_size, lanes=lanes, frames=frames, size=size, world_size=world_size)
    checks.at_least(0, workers=workers, seed=seed, start_step=start_step, rank=rank)
    checks.above_zero(clip_seconds=clip_seconds)
    roots = [shards] if isinstance(shards, str | Path) else list(shards)
    checks.not_empty(shards=roots)
    allow_typed(roots)
    sample = sample or _sample_spec(training, frames, clip_seconds, size, audio)
    config = StreamConfig(
        sources=tuple(SourceConfig(root=str(root)) for root in roots),
        batch_size=batch_size,
        lanes=lanes or max(each for each in range(1, _MOST_LANES + 1) if batch_size % each == 0),
        workers=workers,
        seed=seed,
    )
    rank = collectives.rank() if rank is None else rank
    world_size = collectives.world_size() if world_size is None else world_size
    if rank >= world_size:
        raise UserError(f"rank={rank} of world_size={world_size}: expected 0 to {world_size - 1}")
    if training:
        return batches(config, ClipTransform(sample), rank, world_size, start_step)
    if start_step:
        raise UserError(f"start_step={start_step}: expected 0 with training=False, where every clip comes once")
    return evaluation_batches(config, ClipTransform(sample), rank, world_size)


def _sample_spec(
    training: bool, frames: int, clip_seconds: float | None, size: int, audio: SoundSpec | None
) -> SampleSpec:
    clips: ClipSpec = Segments(frames=frames, placement="random" if training else "centre")
    if clip_seconds is not None:
        clips = DenseWindow(frames=frames, clip_seconds=clip_seconds, placement="random" if training else "uniform")
    view = ViewSpec(crop=CentreCrop(size=size, short_side=size))
    if training:
        view = ViewSpec(crop=RandomResizedCrop(size=size), flip_probability=0.5)
    if audio is not None and audio.frames is None:
        raise UserError("audio: the sounds of a batch must have one length: set its frames, or give sample instead")
    return SampleSpec(
        views=ViewsSpec(clips=clips, views=(view,)),
        sound=audio,
        caption="random" if training else "first",
        is_training=training,
    )
