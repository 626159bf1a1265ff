"""A small head for tests: four colours to classify, on tiny clips, every third of them silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from tests.shards import media
from trichord.finetune.config import FinetuneConfig
from trichord.shards.reading.manifest import index_shards

CLASSES = ("red", "green", "blue", "grey")
_COLOURS = ((220, 40, 40), (40, 200, 60), (40, 60, 220), (120, 120, 120))
PER_SHARD = 4
BACKBONE = {
    **{"kind": "timesformer", "dim": 16, "depth": 1, "heads": 2, "patch": 8, "frames": 2, "size": 16},
    "first_weights": "by_width",
}
AUDIO_BACKBONE = {"kind": "ast", "dim": 16, "depth": 1, "heads": 2, "frames": 48, "mels": 32}
SOUND = {"kind": "kaldi_fbank", "mels": 32, "frames": 48, "shift_ms": 32.0, "frame_ms": 64.0}


def write_shards(folder: Path, clips: int = 16, several: bool = False) -> Path:
    """Write clips of one colour each; with `several`, the classes of a clip are the bits of its number, or none."""
    folder.mkdir(parents=True)
    for shard in range(-(-clips // PER_SHARD)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as out:
            for number in range(shard * PER_SHARD, min((shard + 1) * PER_SHARD, clips)):
                out.write({"__key__": f"clip{number:03d}", **members(number, several)})
    manifest = index_shards(str(folder))
    manifest.model_copy(update={"classes": CLASSES}).save(folder)
    return folder


def labels_of(number: int, several: bool = False) -> list[int]:
    """Return the classes of a clip."""
    return [label for label in range(3) if number >> label & 1] if several else [number % len(CLASSES)]


def intervals_of(number: int) -> list[dict[str, float]]:
    """Return the intervals of the classes of a clip: consecutive, a tenth of a second each, and overlapping."""
    return [{"label": label, "start": 0.08 * label, "end": 0.08 * label + 0.1} for label in labels_of(number, True)]


def members(number: int, several: bool = False) -> dict[str, bytes]:
    """Return video, sound and labels of a clip; with several classes, later clips are longer."""
    frames_THWC = media.moving_picture(8 + number // 2 * several, 32, 32, seed=number) // 3
    frames_THWC = (frames_THWC + np.array(_COLOURS[number % 4], dtype=np.uint8) // 2).astype(np.uint8)
    sound_N = None if number % 3 == 2 else media.tone(0.32, 16000, 200.0 * (1 + number % 4))
    data = media.encode(frames_THWC, sound_N, sound_rate=16000)
    annotation = {"labels": labels_of(number, several), "intervals": intervals_of(number) if several else []}
    return {"mp4": data, "json": json.dumps(annotation).encode()}


def settings(shards: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe as parsed from YAML; changes are dotted names with two underscores for the dot."""
    view = {"crop": {"kind": "squash", "size": 16}}
    found: dict[str, Any] = {
        "seed": 5,
        "steps": 4,
        "data": {"sources": [{"root": str(shards)}], "batch_size": 8, "lanes": 2, "block_shards": 2},
        "backbone": dict(BACKBONE),
        "audio_backbone": None,
        "objective": {
            "kind": "classification",
            "inputs": ["video"],
            "classes": list(CLASSES),
            "clips": {"kind": "segments", "frames": 2},
            "view": view,
            "test_clips": {"kind": "segments", "frames": 2, "placement": "centre", "clips": 2},
            "test_view": view,
            "head": {"layer_norm": True},
        },
        "optimiser": {"learning_rate": 5e-3, "weight_decay": 0.01, "eps": 1e-4},  # so that rounding stays small
        "checkpoints": {"every_steps": 2, "every_s": None, "keep_last": 10},
        "log": {"every_steps": 1},
    }
    for name, value in changes.items():
        *above, last = name.split("__")
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return found


def small_config(shards: Path, **changes: Any) -> FinetuneConfig:
    """Return the settings as a config."""
    return FinetuneConfig.model_validate(settings(shards, **changes))


BOTH: dict[str, Any] = {
    "objective__inputs": ["video", "audio"],
    "audio_backbone": dict(AUDIO_BACKBONE),
    "objective__sound": dict(SOUND),
}
HEARD: dict[str, Any] = {**BOTH, "objective__inputs": ["audio"], "backbone": None}
SLIDING: dict[str, Any] = {
    "objective__test_clips": {"kind": "sliding", "frames": 2, "clip_seconds": 0.16, "stride_seconds": 0.12},
    "objective__average": "max",
}
BINARY: dict[str, Any] = {"objective__loss": {"kind": "binary", "pos_weight": "inverse_frequency"}}
