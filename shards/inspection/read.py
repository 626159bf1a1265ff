"""Read batches as training does, and report the rate, the bad and silent samples, and a digest of the content.

The figures answer two questions before a job is submitted: whether this many workers are fast enough for the device,
and whether batches are unchanged. The digest covers keys, texts, labels, pixels and audio of all steps; on one machine
it must not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from trichord.core.console import pulse, show_figures
from trichord.shards.audio.sound_specs import KaldiFbank
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import DenseWindow
from trichord.shards.transforms.crops import RandomResizedCrop
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

CLIP_SECONDS = 2.0
SOUND_FRAMES = 198  # of 10 ms in 2 s


def usual_recipe(frames: int, size: int) -> SampleSpec:
    """Return a typical training recipe: one clip of 2 s, cropped and flipped, with its log-mel spectrogram."""
    view = ViewSpec(crop=RandomResizedCrop(size=size), flip_probability=0.5)
    clips = DenseWindow(frames=frames, clip_seconds=CLIP_SECONDS)
    return SampleSpec(views=ViewsSpec(clips=clips, views=(view,)), sound=KaldiFbank(frames=SOUND_FRAMES))


def read(
    config: StreamConfig, spec: SampleSpec, *, steps: int, start_step: int = 0, beat: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Read `steps` batches and return one row of figures; the time to the first batch is excluded from the rate."""
    digest = hashlib.blake2b(digest_size=8)
    began_s = time.perf_counter()
    stream = batches(config, ClipTransform(spec), start_step=start_step)
    try:
        _digest(digest, next(stream))
        first_s = time.perf_counter()
        beat()
        for _ in range(steps - 1):
            _digest(digest, next(stream))
            beat()
        rest_s = time.perf_counter() - first_s
        figures = stream.figures()
    finally:
        stream.close()
    clips = (steps - 1) * config.batch_size
    return {
        "steps": steps,
        "clips": steps * config.batch_size,
        "clips a second": round(clips / rest_s, 1) if clips else None,
        "first batch after, s": round(first_s - began_s, 2),
        "workers": config.workers,
        "without sound": figures["silent_share"],
        "bad": figures["bad"],
        "digest": digest.hexdigest(),
    }


def _digest(digest: Any, batch: Batch) -> None:
    for key, text, labels in zip(batch.key, batch.text, batch.labels, strict=True):
        digest.update(repr((key, text, labels)).encode())
    for tensor in (*batch.video, *batch.audio, batch.audio_present):
        digest.update(tensor.contiguous().numpy().data)


def run(arguments: Namespace) -> int:
    """Run `trichord shards read`."""
    config = StreamConfig(
        sources=(SourceConfig(root=arguments.root, manifest=arguments.manifest),),
        batch_size=arguments.batch_size,
        lanes=arguments.lanes,
        seed=arguments.seed,
        workers=arguments.workers,
        cache_dir=arguments.cache,
    )
    with pulse("reading batches") as beat:
        row = read(
            config,
            usual_recipe(arguments.frames, arguments.size),
            steps=arguments.steps,
            start_step=arguments.start,
            beat=beat,
        )
    show_figures(f"batches of {arguments.root}", [row], arguments.json)
    return 0
