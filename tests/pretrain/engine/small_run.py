"""A run for tests: SVT with a few thousand weights on a few tiny clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from tests.shards import media
from trichord.pretrain.config import RunConfig
from trichord.shards.reading.manifest import index_shards

CLIPS, PER_SHARD = 16, 4


def write_shards(folder: Path, sound: bool = False, text: bool = False) -> Path:
    """Write a small set of shards with plain webdataset, and its manifest.

    With sound, all but every fifth clip have a sound track; with text, each clip has a caption and a class.
    """
    folder.mkdir(parents=True)
    for shard in range(CLIPS // PER_SHARD):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as out:
            for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                frames_THWC = media.moving_picture(12, 32, 32, seed=number)
                if sound:  # distinct for a network this small, because clustering refuses equal rows
                    frames_THWC = frames_THWC // 4 + (number * np.array([11, 7, 3]) % 192).astype(np.uint8)
                tone = media.tone(0.5, frequency=200.0 + 50 * number) if sound and number % 5 else None
                annotation = {"caption": f"thing number {number}", "labels": [number % 2]} if text else {}
                video = media.encode(frames_THWC, tone)
                out.write({"__key__": f"clip{number:03d}", "mp4": video, "json": json.dumps(annotation).encode()})
    index_shards(str(folder)).save(folder)
    return folder


def settings(shards: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe as parsed from YAML; changes are dotted names with two underscores for the dot."""
    found: dict[str, Any] = {
        "seed": 3,
        "steps": 10,
        "data": {"sources": [{"root": str(shards)}], "batch_size": 8, "lanes": 2, "block_shards": 2},
        "backbone": {
            "kind": "timesformer",
            "dim": 16,
            "depth": 2,
            "heads": 2,
            "patch": 8,
            "frames": 2,
            "size": 16,
            "drop_path": 0.0,
        },
        "objective": {
            "kind": "svt",
            "window": {"window_seconds": 0.4, "global_frames": [2, 2], "local_frames": [2, 1], "offset_frames": 1},
            "global_view": {"crop": {"kind": "random_resized", "size": 16}},
            "local_view": {"crop": {"kind": "random_resized", "size": 8, "scale": [0.2, 0.6]}},
            "hidden_dim": 24,
            "bottleneck_dim": 6,
            "prototypes": 37,
            "frozen_last_layer_steps": 2,
            "teacher_momentum": {"kind": "cosine", "start": 0.9, "end": 1.0},
        },
        "optimiser": {
            "learning_rate": {"kind": "cosine", "start": 1e-2, "end": 1e-4, "warmup_steps": 2},
            "weight_decay": {"kind": "cosine", "start": 0.04, "end": 0.4},
        },
        "engine": {"clip_gradient_norm": 3.0},
        "checkpoints": {"every_steps": 5, "every_s": None, "keep_last": 10},
        "log": {"every_steps": 1},
    }
    for name, value in changes.items():
        *above, last = name.split("__")
        place = found
        for key in above:
            place = place[key]
        place[last] = value
    return found


def av_changes(**target: Any) -> dict[str, Any]:
    """Return the changes that make a small run audio-visual."""
    return {
        "backbone__first_weights": "by_width",  # otherwise its output is nearly the same for all clips at init
        "audio_backbone": {
            "kind": "ast",
            "dim": 16,
            "depth": 1,
            "heads": 2,
            "time_stride": 16,
            "mel_stride": 16,
            "frames": 32,
            "mels": 16,
        },
        "objective": {
            "kind": "av_prototypes",
            "clips": {"kind": "window", "frames": 2, "clip_seconds": 0.4},
            "view": {"crop": {"kind": "random_resized", "size": 16}},
            "sound": {"kind": "kaldi_fbank", "mels": 16, "frames": 32},
            "embedding_dim": 8,
            "hidden_dim": 12,
            "target": {"kind": "prototypes", "clusters": [2, 3], **target},
        },
    }


def video_text_changes(**objective: Any) -> dict[str, Any]:
    """Return the changes that make a small run one of video and text."""
    return {
        "text_backbone": {"kind": "clip", "dim": 16, "depth": 1, "heads": 2, "joint_dim": 16, "length": 8},
        "objective": {
            "kind": "video_text",
            "clips": {"kind": "segments", "frames": 2},
            "view": {"crop": {"kind": "random_resized", "size": 16}},
            "classes": {"names": ["even", "odd"]},
            "prompts": True,
            **objective,
        },
    }


def small_config(shards: Path, **changes: Any) -> RunConfig:
    """Return the settings as a config."""
    return RunConfig.model_validate(settings(shards, **changes))
