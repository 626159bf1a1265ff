"""`trichord embed`: vectors of a shard set's clips; one part for each shard, complete or absent.

An existing part is not computed again, so an interrupted job continues where it stopped, and independent jobs can
share the shards. Legend: n rows of a part, E features, T frames, M mel filters.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.core.command import command_line
from trichord.core.console import counted, printable, show_figures, track
from trichord.core.errors import RunStopped, SampleError, UserError
from trichord.core.files import write_whole
from trichord.core.processes import worker_pool
from trichord.core.seeds import generator
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.rows import FILE_NAME, TEXT_COLUMNS, finished, part_path, plan_of, read_embedding
from trichord.finetune.retrieval.spec import DType, Embedding, Windows
from trichord.finetune.retrieval.table import TableColumn, text_columns, whole, write_table
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.batch import Example
from trichord.shards.reading.manifest import Manifest, ShardEntry
from trichord.shards.reading.root import Root, parse_root
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform

_FEWEST_CLIPS = 200


@dataclass(frozen=True)
class EmbedOptions:
    """The shard set to embed, and the settings."""

    root: str
    out: Path
    dtype: DType = "float16"
    windows: Windows | None = None
    part: tuple[int, int] = (1, 1)
    batch_size: int = 16
    workers: int = 0
    cache: Path | None = None
    max_bad_fraction: float = 0.05


class EmbedResult(NamedTuple):
    """Result of an `embed` command, over the parts of this process."""

    embedding: Embedding
    written: int
    found: int  # parts that existed before
    rows: int
    bad: int


@dataclass
class _Gathering:
    """Rows of one shard, and inputs that are not embedded yet."""

    texts: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TEXT_COLUMNS})
    spans: list[tuple[float, float]] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    sounds: list[Tensor] = field(default_factory=list)
    vectors: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    present: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


def run_embed(arguments: Namespace) -> int:
    """Embed the shards of parsed arguments and print what was written."""
    if arguments.stride and not arguments.windows:
        raise UserError("--stride is the distance between windows, but --windows is missing: give their length")
    windows = None
    if arguments.windows:
        windows = Windows(seconds=arguments.windows, stride_s=arguments.stride or arguments.windows)
    names = ("out", "dtype", "batch_size", "workers", "cache", "max_bad_fraction")
    part = arguments.part or (1, 1)
    options = EmbedOptions(
        root=arguments.shards, windows=windows, part=part, **{name: getattr(arguments, name) for name in names}
    )
    done = embed(Embedder.load(arguments.run_folder), arguments.run_folder, options)
    row = {
        "parts": done.written,
        "there before": done.found,
        "of": len(done.embedding.shards),
        "rows": done.rows,
        "bad": done.bad,
        "features": done.embedding.dim,
        "modalities": ", ".join(done.embedding.senses),
        "model": done.embedding.model[:12],
        "folder": str(arguments.out),
    }
    show_figures(f"embedded {arguments.shards} by {arguments.run_folder}", [row], arguments.json)
    return 0


def embed(embedder: Embedder, run: Path, options: EmbedOptions) -> EmbedResult:
    """Compute all missing parts that are assigned to this process."""
    manifest = Manifest.load(options.root)
    embedding = _describe(embedder, run, options, manifest)
    _claim(options.out, embedding)
    number, parts = options.part
    own = [place for place in range(len(manifest.shards)) if place % parts == number - 1]
    todo = [place for place in own if finished(options.out, embedding, place) is None]
    rows = bad = clips = 0
    with ExitStack() as stack:
        pool = None
        if options.workers and todo:
            pool = stack.enter_context(worker_pool(options.workers, "trichord.shards.sample"))
        for place in track(todo, "shards"):
            entry = manifest.shards[place]
            gathering = _read_shard(embedder, options, manifest, entry, pool)
            bad, clips = bad + len(gathering.bad), clips + entry.samples
            _check_bad(gathering.bad, bad, clips, options)
            rows += len(gathering.spans)
            _write_part(part_path(options.out, place), embedding, entry, gathering)
    return EmbedResult(embedding, len(todo), len(own) - len(todo), rows, bad)


def _describe(embedder: Embedder, run: Path, options: EmbedOptions, manifest: Manifest) -> Embedding:
    return Embedding(
        model=embedder.hash,
        run=str(run),
        step=embedder.opened.about["step"],
        dim=embedder.dim,
        dtype=options.dtype,
        senses=embedder.modalities,  # type: ignore[arg-type]
        root=options.root,
        shards=tuple(entry.name for entry in manifest.shards),
        digest=manifest.digest(),
        look=embedder.opened.transforms.words(ZeroShotSpec()),
        windows=options.windows,
    )


def _claim(folder: Path, embedding: Embedding) -> None:
    """Claim a folder for an embedding; raise UserError if it holds a different one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE_NAME).exists():
            write_whole(folder / FILE_NAME, embedding.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error}") from error
    existing = read_embedding(folder)
    if plan_of(existing) != plan_of(embedding):
        differ = [name for name in Embedding.model_fields if getattr(existing, name) != getattr(embedding, name)]
        differences = ", ".join(
            f"{name} {_short(getattr(existing, name))}" for name in differ if name not in ("run", "step")
        )
        raise UserError(f"{folder} holds different embeddings: {differences}. Next: another --out")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _read_shard(
    embedder: Embedder, options: EmbedOptions, manifest: Manifest, entry: ShardEntry, pool: ProcessPoolExecutor | None
) -> _Gathering:
    gathering = _Gathering()
    transform = ClipTransform(embedder.sample_spec(options.windows))
    root = parse_root(options.root)
    for raw, found in _examples(root, entry, options, transform, pool):
        if isinstance(found, SampleError):
            gathering.bad.append(f"{entry.name} {raw}: {found}")
            continue
        _take(gathering, root.text, entry.name, raw, found, manifest.classes)
        while len(gathering.frames) >= options.batch_size:
            _embed_some(embedder, gathering, options)
    while gathering.frames:
        _embed_some(embedder, gathering, options)
    return gathering


def _examples(
    root: Root, entry: ShardEntry, options: EmbedOptions, transform: ClipTransform, pool: ProcessPoolExecutor | None
) -> Iterator[tuple[str, Example | SampleError]]:
    """Yield the key and the example or error of each sample, in the shard's order; workers read a few samples ahead."""
    try:
        archive = open_archive(root, entry.name, cache_dir=options.cache, size=entry.bytes, sha256=entry.sha256)
    except SampleError as error:
        why = f"{entry.name} cannot be read, so its part has no rows: {error}. To embed it later, delete the part"
        print(printable(f"warning: {why}"), file=sys.stderr)
        yield from ((f"(sample {position})", error) for position in range(entry.samples))
        return
    waiting: deque[tuple[str, Future[Example | SampleError]]] = deque()
    try:
        for position in range(entry.samples):
            key = archive.keys[position] if position < len(archive) else f"(sample {position})"
            try:
                raw = archive.read(position)
            except SampleError as error:
                yield key, error
                continue
            if pool is None:
                yield key, decode(transform, raw)
                continue
            waiting.append((key, pool.submit(decode, transform, raw)))
            if len(waiting) > 2 * options.workers:
                key, future = waiting.popleft()
                yield key, future.result()
        for key, future in waiting:
            yield key, future.result()
    finally:
        archive.close()


def decode(transform: ClipTransform, raw: RawSample) -> Example | SampleError:
    """Decode a sample, or return the error; this runs in workers."""
    try:
        return transform(raw, generator(0, "embed"))  # the transform draws nothing from it
    except SampleError as error:
        return error


def _take(gathering: _Gathering, root: str, shard: str, key: str, example: Example, classes: Sequence[str]) -> None:
    """Add a row for each clip of a sample."""
    timeline = example.timeline
    names = [classes[label] if label < len(classes) else str(label) for label in example.labels]
    columns = {"key": key, "shard": shard, "root": root, "caption": example.text, "label": "\n".join(names)}
    for number, (span, frames_CTHW) in enumerate(zip(timeline.clips_s, example.video, strict=True)):
        for name, text in columns.items():
            gathering.texts[name].append(text)
        gathering.spans.append(span)
        gathering.frames.append(frames_CTHW)
        if example.audio:
            gathering.sounds.append(example.audio[number])


def _embed_some(embedder: Embedder, gathering: _Gathering, options: EmbedOptions) -> None:
    """Embed the first pending frames and sounds and their captions, each distinct text once."""
    count = min(options.batch_size, len(gathering.frames))
    done = sum(len(rows) for rows in gathering.vectors.get("video", []))
    captions = gathering.texts["caption"][done : done + count]
    distinct = sorted({caption for caption in captions if caption})
    places = {caption: place for place, caption in enumerate(distinct)}
    text_nE = np.zeros((count, embedder.dim), np.float32)
    read_nE = embedder.embed_texts(distinct)
    for row, caption in enumerate(captions):
        if caption:
            text_nE[row] = read_nE[places[caption]]
    found = {"video": embedder.embed_frames(torch.stack(gathering.frames[:count])), "text": text_nE}
    present = {"video": np.ones(count, bool), "text": np.array([bool(caption) for caption in captions])}
    if gathering.sounds:
        sounds_nTM = torch.stack(gathering.sounds[:count])
        has_sound_n = sounds_nTM.flatten(1).any(dim=1).numpy()  # the spectrogram of silence is all zero
        found["audio"], present["audio"] = embedder.embed_audio(sounds_nTM) * has_sound_n[:, None], has_sound_n
    del gathering.frames[:count], gathering.sounds[:count]
    for modality, rows_nE in found.items():
        if not np.isfinite(rows_nE).all():
            raise RunStopped(
                f"vectors of {modality} are not finite: training diverged. Next: use an earlier checkpoint"
            )
        gathering.vectors.setdefault(modality, []).append(rows_nE.astype(options.dtype))
        gathering.present.setdefault(modality, []).append(present[modality])


def _write_part(path: Path, embedding: Embedding, entry: ShardEntry, gathering: _Gathering) -> None:
    columns: dict[str, TableColumn] = {}
    for modality in embedding.senses:
        none = np.empty((0, embedding.dim), embedding.dtype)
        columns[modality] = whole(np.concatenate([none, *gathering.vectors.get(modality, [])]))
        present = np.concatenate([np.empty(0, bool), *gathering.present.get(modality, [])])
        columns[f"has.{modality}"] = whole(present.astype(np.uint8))
    spans_n2 = np.array(gathering.spans, np.float64).reshape(-1, 2)
    columns |= {"start_s": whole(spans_n2[:, 0].copy()), "end_s": whole(spans_n2[:, 1].copy())}
    for name, texts in gathering.texts.items():
        columns |= text_columns(name, texts)
    about = {"plan": plan_of(embedding), "shard": entry.name, "rows": len(spans_n2), "bad": gathering.bad}
    try:
        write_table(path, columns, about)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error}. Finished parts are kept. Next: fix this, then repeat the command"
        ) from error


def _check_bad(latest: Sequence[str], bad: int, clips: int, options: EmbedOptions) -> None:
    if bad > options.max_bad_fraction * max(clips, _FEWEST_CLIPS):
        named = "\n  ".join(latest[:12])
        raise RunStopped(
            f"{bad} of {counted(clips, 'clip')} of {options.root} cannot be used, more than "
            f"{options.max_bad_fraction:.0%}:\n  {named}\n"
            f"Next: {command_line('shards', 'verify', options.root)}, or a larger --max-bad-fraction"
        )
