"""Single samples, for inference and inspection: a video file, a batch of one, a few samples of a shard set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from trichord.core.errors import UserError
from trichord.core.seeds import generator
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.batch import Batch, Named, collate, stack_anew
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.roots import parse_root
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec


def read_video(path: Path) -> RawSample:
    """Read a video file as a sample; raise UserError if it is missing or not a video."""
    extension = path.suffix.lower().removeprefix(".")
    if not path.is_file() or extension not in VIDEO_EXTENSIONS:
        found = "no file of this name" if not path.exists() else "a folder" if path.is_dir() else "another file type"
        raise UserError(f"{path}: expected a video file ({', '.join(VIDEO_EXTENSIONS)}), found {found}")
    return RawSample(path.stem, path.name, {extension: path.read_bytes()})


def batch_of(
    raw: RawSample, spec: SampleSpec, limits: DecodeLimits | None = None, device: torch.device | None = None
) -> Batch:
    """Build a batch of one sample; random views use a fixed seed and are the same each time."""
    example = ClipTransform(spec, limits)(raw, generator(0, "one sample", raw.key))
    batch = collate([Named(example, raw.key, raw.shard, 0)], 0, [], [], 0, stack_anew)
    if device is not None:
        video, audio = ([each.to(device) for each in batch[modality]] for modality in ("video", "audio"))
        batch["video"], batch["audio"] = video, audio
        batch["audio_present"], batch["valid"] = batch["audio_present"].to(device), batch["valid"].to(device)
    return batch


def pick_samples(root: str, count: int) -> Iterator[RawSample]:
    """Yield `count` samples evenly spread over the set, starting with its first, or all if it has fewer.

    Raise SampleError for a sample that cannot be read.
    """
    where, listed = parse_root(root), Manifest.load(root)
    if listed.samples == 0:
        raise UserError(f"{where.text} has no samples. Next: trichord shards verify {where.text}")
    ends = np.cumsum([entry.samples for entry in listed.shards])
    count = min(count, listed.samples)
    for number in (listed.samples * place // count for place in range(count)):
        shard = int(np.searchsorted(ends, number, side="right"))
        entry = listed.shards[shard]
        archive = open_archive(where, entry.name, size=entry.bytes, sha256=entry.sha256)
        try:
            yield archive.read(number - (int(ends[shard]) - entry.samples))
        finally:
            archive.close()
