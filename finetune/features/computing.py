"""Tokens of frozen backbones, computed once and stored in shards that are then read in place of the videos.

A set of features holds as many samples as the set of videos, shard by shard and in the same order, so that a run draws
the same samples at every step. A sample has the video's own json, txt and cls members, and the output of the transform
and the backbones; an unusable one has no features, and is counted as bad again. Shards are finished one by one, so an
interrupted computation continues. Legend: b samples computed together, X the stored shape of one: LD, or nLD for n
clips, L tokens, D features; the pooled vector is the first token, and the only one where no other is needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from webdataset import TarWriter

from trichord.core.console import track
from trichord.core.errors import SampleError, UserError
from trichord.core.files import whole_file, write_whole
from trichord.core.reading import read_object
from trichord.core.seeds import generator
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.features import MEMBER
from trichord.finetune.tasks.base import OnTokens
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.distributed import World, join_world
from trichord.pretrain.engine.training import build
from trichord.shards.reading.archive import Archive
from trichord.shards.reading.batch import Example
from trichord.shards.reading.manifest import Manifest, ShardEntry
from trichord.shards.reading.reader import open_shard
from trichord.shards.reading.stream_config import ShardSource
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform

_ABOUT = "features.json"
_KEPT = ("json", "txt", "cls")
_AT_ONCE = 8  # samples in one forward pass


def fill_alone(config: FinetuneConfig) -> None:
    """Compute the missing features of a run before it starts, in the process group of the launched ranks."""
    world = join_world()
    torch.set_num_threads(thread_plan(world.placement.local_size))
    fill(config, world)


def fill(config: FinetuneConfig, world: World) -> None:
    """Compute the missing features of a run; all ranks take part, each with its share of the shards."""
    assert config.features is not None
    sources = config.data.open_sources()
    if all((config.features_of(number) / "manifest.json").exists() for number in range(len(sources))):
        _check(config, sources)
        return
    if world.rank == 0:
        config.features.mkdir(parents=True, exist_ok=True)
        if not (config.features / _ABOUT).exists():
            write_whole(config.features / _ABOUT, json.dumps(about(config, sources), indent=1) + "\n")
    world.broadcast("", "start of the features")
    _check(config, sources)
    objective = build(config)
    config.begin(objective)
    assert isinstance(objective, OnTokens)
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    writer = _Writer(config, objective.eval().to(world.device), world)
    for number, source in enumerate(sources):
        folder = config.features_of(number)
        folder.mkdir(exist_ok=True)
        entries = source.manifest.shards
        own = [each for each in entries[world.rank :: world.size] if not (folder / each.name).exists()]
        for entry in track(own, "shards of features"):
            writer.write(source, entry, folder / entry.name)
        world.broadcast("", "end of the features")
        if world.rank == 0:
            shards = tuple(_entry(folder / each.name, each.samples) for each in entries)
            Manifest(classes=source.manifest.classes, shards=shards).save(folder)
    world.broadcast("", "manifest of the features")


def about(config: FinetuneConfig, sources: tuple[ShardSource, ...]) -> dict[str, Any]:
    """Return everything that features depend on."""
    tree = config.model_dump(mode="json")
    names = ("backbone", "audio_backbone", "init_from", "audio_init_from")
    is_random = config.init_from is None and config.audio_init_from is None
    return {
        "samples": config.objective.sample_spec().model_dump(mode="json", exclude={"label_rule"}),
        "normalisation": tree["objective"]["normalisation"],
        "tokens": "all" if config.objective.needs_grid else "pooled",
        "precision": config.engine.precision,
        "seed": config.seed if is_random else None,  # of initial weights; others are loaded
        "data": [source.manifest.digest() for source in sources],
        **{name: tree[name] for name in names},
    }


def _check(config: FinetuneConfig, sources: tuple[ShardSource, ...]) -> None:
    assert config.features is not None
    path = config.features / _ABOUT
    found = read_object(path, "It describes these features. Set another features=DIR")
    wanted = about(config, sources)
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        raise UserError(
            f"{config.features} holds features of other {', '.join(other)}: {path} lists them. Set another "
            "features=DIR to compute them again"
        )


class _Writer:
    """Writer that computes and stores the features of one shard after another."""

    def __init__(self, config: FinetuneConfig, objective: OnTokens, world: World) -> None:
        self.config, self.objective, self.world = config, objective, world
        # Labels are checked where features are read: they may be used with other labels.
        self.transform = ClipTransform(objective.spec.sample_spec().model_copy(update={"label_rule": None}))
        self.limits = config.data.reading_limits()

    def write(self, source: ShardSource, entry: ShardEntry, path: Path) -> None:
        """Write the features of one shard, completely or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        archive = self._open(source, entry)
        plain = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "compress": False, "encoder": False}
        with whole_file(path) as file, TarWriter(file, **plain) as writer:
            for key, members in self._samples(archive, entry):
                writer.write({"__key__": key, **members})
        if archive is not None:
            archive.close()

    def _open(self, source: ShardSource, entry: ShardEntry) -> Archive | None:
        try:
            return open_shard(source.root, entry, self.limits)
        except SampleError as error:
            print(f"warning: no features of {entry.name}: {error}", file=sys.stderr)
            return None

    def _samples(self, archive: Archive | None, entry: ShardEntry) -> Iterator[tuple[str, dict[str, bytes]]]:
        with ThreadPoolExecutor(max(self.config.data.workers, 1)) as threads:
            for first in range(0, entry.samples, _AT_ONCE):
                places = range(first, min(first + _AT_ONCE, entry.samples))
                read = [_read(archive, entry.name, place) for place in places]
                examples = list(threads.map(self._decoded, read))
                features = iter(self._computed([each for each in examples if each is not None]))
                for raw, example in zip(read, examples, strict=True):
                    stored = {name: raw.members[name] for name in _KEPT if name in raw.members}
                    if example is not None:
                        stored[MEMBER] = save(next(features))
                    yield raw.key, stored or {"txt": b""}  # a sample must have at least one member

    def _decoded(self, raw: RawSample) -> Example | None:
        try:
            return self.transform(raw, generator(self.config.seed, "features", raw.key))
        except SampleError as error:
            print(f"warning: no features of {raw.key} in {raw.shard}: {error}", file=sys.stderr)
            return None

    @torch.no_grad()
    def _computed(self, examples: list[Example]) -> list[dict[str, Tensor]]:
        rows: list[dict[str, Tensor]] = []
        for each in examples:
            labels = torch.tensor(each.labels, dtype=torch.int64)
            rows.append({"labels": labels, "audio_present": torch.tensor(each.audio_present)})
        device = self.world.device
        for modality in self.objective.spec.inputs if examples else ():
            clips = [
                torch.stack(given).to(device)
                for given in zip(*(each.inputs(modality) for each in examples), strict=True)
            ]
            with self.objective.casting(device):
                tokens_bX = self.objective.tokens(modality, clips)
            for row, tokens_X in zip(rows, tokens_bX.cpu(), strict=True):
                row[modality] = tokens_X.contiguous()
        return rows


def _read(archive: Archive | None, shard: str, place: int) -> RawSample:
    """Read a sample; return an empty one in place of a sample that cannot be read."""
    if archive is None or place >= len(archive):
        return RawSample(f"missing-{place:06d}", shard, {})
    try:
        return archive.read(place)
    except SampleError:
        return RawSample(archive.keys[place], shard, {})


def _entry(path: Path, samples: int) -> ShardEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardEntry(name=path.name, samples=samples, bytes=path.stat().st_size, sha256=digest)
