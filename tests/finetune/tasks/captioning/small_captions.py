"""Small captions for tests: the colour of a clip in several words, on tiny clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import webdataset

from tests.finetune import small_head
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary
from trichord.pretrain.engine.training import build
from trichord.shards.reading.manifest import index_shards

PER_SHARD = 4
WORDS = ("a {} cloth", "there is {} all over", "nothing but {}, see")


def write_shards(folder: Path, clips: int = 14) -> Path:
    """Write clips of one colour each, with one to three captions; every seventh clip has none."""
    folder.mkdir(parents=True)
    for shard in range(-(-clips // PER_SHARD)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as out:
            for number in range(shard * PER_SHARD, min((shard + 1) * PER_SHARD, clips)):
                members = small_head.members(number)
                members["json"] = json.dumps({"captions": captions_of(number)}).encode()
                out.write({"__key__": f"clip{number:03d}", **members})
    index_shards(str(folder)).save(folder)
    return folder


def captions_of(number: int) -> list[str]:
    """Return the captions of a clip."""
    colour = small_head.CLASSES[number % 4]
    return [] if number % 7 == 6 else [text.format(colour) for text in WORDS[: 1 + number % 3]]


def settings(shards: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe as parsed from YAML; changes as in small_head."""
    view = {"crop": {"kind": "squash", "size": 16}}
    objective = {
        "kind": "captions",
        "clips": {"kind": "segments", "frames": 2},
        "view": view,
        "test_clips": {"kind": "segments", "frames": 2, "placement": "centre"},
        "test_view": view,
        "language": {"dim": 16, "depth": 1, "heads": 2, "positions": 40, "vocabulary": 280, "longest": 16},
    }
    return small_head.settings(shards, **{"objective": objective, **changes})


def small_config(shards: Path, **changes: Any) -> FinetuneConfig:
    """Return the settings as a config."""
    return FinetuneConfig.model_validate(settings(shards, **changes))


def small_captioner(**changes: Any) -> Captioner:
    """Build a captioner with the vocabulary of the captions, in eval mode."""
    found = build(small_config(Path("nowhere"), **changes))
    assert isinstance(found, Captioner)
    found.vocabulary = Vocabulary.learn([text for number in range(14) for text in captions_of(number)], 280)
    return found.eval()  # type: ignore[return-value]
