"""Operations on indexes: build, add, remove, merge, check. A lock lets one process at a time change an index."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trichord.core.command import command_line
from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.reading import open_regular
from trichord.core.seeds import generator
from trichord.finetune.retrieval.building import MOST_QUERIES, Options, Queries, write_segment
from trichord.finetune.retrieval.index import CATALOGUE, Index, read_catalogue, refuse_other_model
from trichord.finetune.retrieval.kinds import choose
from trichord.finetune.retrieval.rows import Source, finished, part_path, read_embedding
from trichord.finetune.retrieval.spec import (
    MODALITIES,
    Catalogue,
    EmbeddedModality,
    Embedding,
    SegmentEntry,
)
from trichord.finetune.retrieval.table import Table, TornTable, whole, write_table
from trichord.pretrain.engine.run_lock import take_lock

_OF_CAPTIONS, _OF_VIDEOS, _OF_ROWS = "captions", "videos", "the rows themselves"


def build(folders: Sequence[Path], out: Path, modality: EmbeddedModality, options: Options) -> Catalogue:
    """Build an index of all parts of some embeddings."""
    if (out / CATALOGUE).exists():
        raise UserError(
            f"{out} is already an index. Next: {command_line('index', 'add', out, 'DIR')}, or another --out"
        )
    embeddings = [read_embedding(folder) for folder in folders]
    first = embeddings[0]
    catalogue = Catalogue(model=first.model, run=first.run, dim=first.dim, dtype=first.dtype, sense=modality)
    return _append(out, catalogue, folders, embeddings, options, lambda: catalogue)


def add(out: Path, folders: Sequence[Path], options: Options) -> Catalogue:
    """Add the parts of some embeddings as a new segment."""
    embeddings = [read_embedding(folder) for folder in folders]
    return _append(out, read_catalogue(out), folders, embeddings, options, lambda: _current(out))


def _append(
    out: Path,
    catalogue: Catalogue,
    folders: Sequence[Path],
    embeddings: Sequence[Embedding],
    options: Options,
    current: Callable[[], Catalogue],
) -> Catalogue:
    for folder, embedding in zip(folders, embeddings, strict=True):
        refuse_other_model(out if catalogue.segments else folders[0], catalogue, embedding.model)
        if embedding.dtype != catalogue.dtype:
            raise UserError(
                f"{folder} is in {embedding.dtype}, expected {catalogue.dtype}. "
                f"Next: embed it with --dtype {catalogue.dtype}"
            )
    tables = [table for each in zip(folders, embeddings, strict=True) for table in _parts(*each, catalogue)]
    sources = [_source(table, catalogue.sense) for table in tables]
    if not sum(len(source.keep_n) for source in sources):
        raise UserError(f"{folders[0]} holds no vectors of {catalogue.sense}, expected at least one")
    with _changing(out):
        catalogue = current()
        if catalogue.segments:
            _refuse_held(Index(out, catalogue), sources)
        entry = write_segment(out, catalogue, sources, _queries(tables, catalogue.sense, options.seed), options)
        return _commit(out, catalogue, (*catalogue.segments, entry))


def remove(out: Path, keys: Iterable[str], where: Mapping[str, str]) -> tuple[Catalogue, int]:
    """Remove all rows of some keys and all that `where` matches; return the catalogue and their number."""
    with _changing(out):
        catalogue = _current(out)
        index = Index(out, catalogue)
        gone = [np.zeros(len(segment.rows), bool) for segment in index.segments]
        for key in keys:
            places = index.places(key)
            if not places:
                raise UserError(f"{out} holds no {key!r}; nothing was removed")
            for place in places:
                gone[place.segment][place.row] = True
        if where:
            for gone_N, segment in zip(gone, index.segments, strict=True):
                gone_N |= segment.rows.matching(where)
        segments, removed = [], 0
        for gone_N, segment in zip(gone, index.segments, strict=True):
            before = segment.entry.gone
            if segment.is_gone_N is not None:
                gone_N |= segment.is_gone_N
            removed += int(gone_N.sum()) - before
            if not gone_N.all():
                segments.append(_with_removed(out, catalogue, segment.entry, gone_N))
        if len(segments) == 0:
            raise UserError(f"{out}: this would remove all rows. Next: delete the folder instead")
        return _commit(out, catalogue, segments), removed


def _with_removed(out: Path, catalogue: Catalogue, entry: SegmentEntry, gone_N: NDArray[np.bool_]) -> SegmentEntry:
    """Write the list of removed rows of a segment; an existing list is never changed, because it may be in use."""
    if int(gone_N.sum()) == entry.gone:
        return entry
    name = f"removed-{entry.name.removeprefix('segment-')}-{catalogue.next_number:05d}.safetensors"
    try:
        write_table(out / name, {"row": whole(np.flatnonzero(gone_N).astype(np.int64))}, {"segment": entry.name})
    except OSError as error:
        raise UserError(f"{out / name} cannot be written: {error}. The index is unchanged") from error
    return entry.model_copy(update={"removed": name, "gone": int(gone_N.sum())})


def merge(out: Path, options: Options) -> Catalogue:
    """Merge all segments into one, without the removed rows; one that is already so is kept."""
    with _changing(out):
        catalogue = _current(out)
        if len(catalogue.segments) == 1 and _is_as_asked(catalogue.segments[0], catalogue, options):
            return catalogue
        index = Index(out, catalogue)
        asked_QD = np.concatenate([segment.queries() for segment in index.segments])
        drawn = generator(options.seed, "queries").permutation(len(asked_QD))[:MOST_QUERIES]
        of = index.segments[0].entry.measured.of
        sources = [segment.source() for segment in index.segments]
        entry = write_segment(out, catalogue, sources, Queries(asked_QD[drawn], of), options)
        return _commit(out, catalogue, (entry,))


def _is_as_asked(entry: SegmentEntry, catalogue: Catalogue, options: Options) -> bool:
    kind = options.kind or choose(entry.count, catalogue.dim, catalogue.dtype, options.memory_bytes)
    return entry.gone == 0 and entry.kind == kind and entry.measured.target == options.recall


def check(out: Path) -> Catalogue:
    """Verify every checksum of an index."""
    index = Index.open(out)
    for entry, segment in zip(index.catalogue.segments, index.segments, strict=True):
        for name, file in entry.files.items():
            path = out / entry.name / name
            with open_regular(path) as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file.sha256:
                raise UserError(
                    f"{path} has changed: its checksum is {found[:12]}, expected {file.sha256[:12]}. "
                    "Next: build the index again"
                )
        segment.rows.check()
        if entry.removed is not None:
            Table.open(out / entry.removed).check()
    return index.catalogue


def _parts(folder: Path, embedding: Embedding, catalogue: Catalogue) -> list[Table]:
    """Open all parts of an embedding; each must exist, be complete and be of the same model."""
    tables, missing = [], []
    for place in range(len(embedding.shards)):
        if part_path(folder, place).exists():
            Table.open(part_path(folder, place)).check()  # raises an error that describes a damaged part
        table = finished(folder, embedding, place)
        if table is None:
            missing.append(embedding.shards[place])
            continue
        rows = table.rows
        names = [catalogue.sense, f"has.{catalogue.sense}", "start_s", "end_s", "key.ends", "caption.ends"]
        table.check_rows([*names, "shard.ends", "root.ends", "label.ends"], rows)
        for modality in (each for each in MODALITIES if each in table.columns):
            if table.numbers(modality, "f", 2).shape[1] != embedding.dim:
                raise TornTable(f"{table.path} has vectors of another size than {embedding.dim}. Next: embed again")
            table.check_rows([modality, f"has.{modality}"], rows)
        tables.append(table)
    if missing:
        raise UserError(
            f"{folder} lacks the parts of {len(missing)} of {counted(len(embedding.shards), 'shard')}, such as "
            f"{missing[0]}. Next: {command_line('embed', embedding.run, embedding.root, '--out', folder)}"
        )
    return tables


def _source(table: Table, modality: EmbeddedModality) -> Source:
    if modality not in table.columns:
        raise UserError(f"{table.path} holds no vectors of {modality}: its model was not trained on it")
    return Source(table, table.columns[modality], np.flatnonzero(table.columns[f"has.{modality}"]))


def _queries(tables: Sequence[Table], modality: EmbeddedModality, seed: int) -> Queries:
    """Draw captions for tuning, or videos for an index of texts; if there are none, rows of the index."""
    column, of = ("video", _OF_VIDEOS) if modality == "text" else ("text", _OF_CAPTIONS)
    available = [(table, np.flatnonzero(table.columns[f"has.{column}"])) for table in tables]
    if not sum(len(rows_n) for _, rows_n in available):
        column, of = modality, _OF_ROWS
        available = [(table, np.flatnonzero(table.columns[f"has.{modality}"])) for table in tables]
    ends = np.cumsum([len(rows_n) for _, rows_n in available])
    drawn = generator(seed, "queries").permutation(int(ends[-1]))[:MOST_QUERIES]
    found: list[NDArray[Any]] = []
    for number in drawn.tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        table, rows_n = available[place]
        found.append(table.columns[column][rows_n[number - (int(ends[place]) - len(rows_n))]])
    rows_QD = np.stack(found).astype(np.float32)
    return Queries(rows_QD / np.linalg.norm(rows_QD, axis=1, keepdims=True), of)


def _refuse_held(index: Index, sources: Sequence[Source]) -> None:
    for source in sources:
        for key in source.held_keys():
            if index.places(key):
                raise UserError(
                    f"{index.folder} already holds {key!r}; nothing was added. Next: to replace it, "
                    f"{command_line('index', 'remove', index.folder, key)}"
                )


def _changing(out: Path) -> Any:
    return take_lock(out)


def _current(out: Path) -> Catalogue:
    """Read the catalogue, and delete what an interrupted change left beside it."""
    catalogue = read_catalogue(out)
    _delete_unnamed(out, catalogue)
    return catalogue


def _delete_unnamed(out: Path, catalogue: Catalogue) -> None:
    """Delete the files that a catalogue does not name."""
    named = {name for entry in catalogue.segments for name in (entry.name, entry.removed)}
    for path in out.iterdir():
        if path.name not in named and path.name.startswith(("segment-", "removed-")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _commit(out: Path, catalogue: Catalogue, segments: Sequence[SegmentEntry]) -> Catalogue:
    """Replace the catalogue, then delete files that it no longer names."""
    changed = catalogue.model_copy(update={"segments": tuple(segments), "next_number": catalogue.next_number + 1})
    try:
        write_whole(out / CATALOGUE, changed.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out / CATALOGUE} cannot be written: {error}. The index is unchanged") from error
    _delete_unnamed(out, changed)
    return changed
