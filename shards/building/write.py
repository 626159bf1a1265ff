"""Build a shard set from a dataset's own files: plan, write shards in parallel processes, sign with a manifest."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from shards.building.build_limits import check_bad, check_groups, check_missing
from shards.building.build_summary import BuildSummary, SplitSummary
from shards.building.plan import ShardSize, cut, plan_digest
from shards.building.shard_file import PARTIAL, ShardRecord, ShardTask, Skipped, finished, write_shard, write_whole
from shards.building.transcode import Mode, Preset
from shards.console import track
from shards.errors import UserError
from shards.layouts import Layout, Listing, open_layout
from shards.reading.manifest import Manifest, ShardEntry

_OWN_SHARD = re.compile(r"\d{5}\.(tar|done\.json)")


@dataclass(frozen=True)
class _Order:
    """The options of a build, checked once."""

    layout: Layout
    root: Path
    out: Path
    mode: Mode
    preset: Preset
    size: ShardSize
    workers: int
    seed: int
    shuffle: bool
    limit: int | None
    max_bad_fraction: float


def build(
    layout: str,
    root: Path,
    out: Path,
    *,
    options: Mapping[str, object] | None = None,
    splits: Sequence[str] | None = None,
    mode: Mode | str = Mode.COPY,
    preset: Preset | None = None,
    samples_per_shard: int | None = None,
    bytes_per_shard: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    limit: int | None = None,
    max_bad_fraction: float = 0.05,
    max_missing_fraction: float = 0.05,
) -> BuildSummary:
    """Write OUT/SPLIT/00000.tar … and OUT/SPLIT/manifest.json for each split; run again, it continues.

    The same input and options give the same bytes, whatever the number of workers. `limit` takes that many clips of
    each split, after the shuffle. Without a target a shard has 512 clips.
    """
    opened = open_layout(layout, options)
    if not root.exists():
        raise UserError(f"--root {root} does not exist. The layout {layout} expects:\n{opened.expects.rstrip()}")
    known = opened.splits(root)
    listings = {split: opened.read(root, split) for split in known}
    chosen = tuple(splits or known)
    for split in chosen:
        if split not in listings:
            raise UserError(f"{layout}: {root} has no split {split!r}. Next: --splits with some of: {', '.join(known)}")
        check_missing(listings[split], split, root, max_missing_fraction)
    check_groups(listings)
    size = ShardSize(samples_per_shard or (None if bytes_per_shard else 512), bytes_per_shard)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    preset = preset or Preset()
    order = _Order(opened, root, out, Mode(mode), preset, size, workers, seed, shuffle, limit, max_bad_fraction)
    return BuildSummary(splits=tuple(_build_split(order, split, listings[split]) for split in chosen))


def _build_split(order: _Order, split: str, listing: Listing) -> SplitSummary:
    folder = order.out / split
    tasks = _tasks(order, split, folder, listing)
    summary = SplitSummary(
        split=split,
        folder=folder,
        layout=order.layout.name,
        options=order.layout.model_dump(),
        mode=order.mode,
        preset=order.preset,
        seed=order.seed,
        finished=False,
        classes=len(listing.classes),
        missing=listing.missing,
    )
    _claim(folder, {task.name for task in tasks})
    done = {task.name: record for task in tasks if (record := finished(task)) is not None}
    todo = [task for task in tasks if task.name not in done]
    reused = len(done)
    report = folder / "build.json"
    if todo:  # until the last shard is there, nothing may pass for a whole set
        (folder / "manifest.json").unlink(missing_ok=True)
        write_whole(report, summary.model_dump_json(indent=1))
    clips = sum(len(task.items) for task in tasks)
    check_bad(_skipped(done.values()), clips, order.max_bad_fraction, split)
    for record in track(_written(todo, order.workers, folder), f"shards of {split}", len(todo)):
        done[record.name.removesuffix(".tar")] = record
        check_bad(_skipped(done.values()), clips, order.max_bad_fraction, split)
    records = [done[task.name] for task in tasks]
    entries = [
        ShardEntry(name=record.name, samples=record.samples, bytes=record.bytes, sha256=record.sha256)
        for record in records
        if record.samples
    ]
    Manifest(name=order.layout.name, split=split, shards=tuple(entries), classes=listing.classes).save(folder)
    found = {
        "finished": True,
        "shards": len(entries),
        "reused_shards": reused,
        "samples": sum(entry.samples for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "skipped": tuple(_skipped(records)),
    }
    summary = summary.model_copy(update=found)
    write_whole(report, summary.model_dump_json(indent=1))
    return summary


def _skipped(records: Iterable[ShardRecord]) -> list[Skipped]:
    return [skipped for record in records for skipped in record.skipped]


def _tasks(order: _Order, split: str, folder: Path, listing: Listing) -> list[ShardTask]:
    shards = cut(
        listing.items, order.size, order.mode, order.preset, order.seed if order.shuffle else None, order.limit
    )
    return [
        ShardTask(
            folder,
            f"{number:05d}",
            tuple(items),
            order.mode,
            order.preset,
            plan_digest(items, order.root, order.layout, order.mode, order.preset),
        )
        for number, items in enumerate(shards)
    ]


def _claim(folder: Path, names: set[str]) -> None:
    """Take the folder: refuse one with shards of another making, and clear what an earlier plan or a crash left."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "build.json").exists() and any(folder.glob("*.tar")):
        raise UserError(f"{folder} holds shards that no build made. Next: choose an empty folder as --out.")
    for path in folder.glob(f"*{PARTIAL}"):
        path.unlink()
    for path in folder.iterdir():
        if _OWN_SHARD.fullmatch(path.name) and path.name.partition(".")[0] not in names:
            path.unlink()


def _written(tasks: Sequence[ShardTask], workers: int, folder: Path) -> Iterator[ShardRecord]:
    """Write shards, here or in worker processes, giving each record as it comes."""
    again = "Finished shards stay and are not written again. Next: run the same command once more"
    try:
        if workers <= 1 or len(tasks) <= 1:
            yield from map(write_shard, tasks)
        else:
            yield from _written_in_parallel(tasks, workers)
    except BrokenProcessPool as error:
        raise UserError(
            f"A worker process died while shards were written to {folder}: killed from outside, most often for want of "
            f"memory. {again}, with fewer --workers."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error}. {again} when that is mended.") from error
    finally:
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink(missing_ok=True)


def _written_in_parallel(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardRecord]:
    # Forked from a clean server: a codec or thread pool of this process would hang in a plain fork, and a spawned
    # interpreter would import everything once for each worker.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.building.shard_file"])
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context)
    try:
        for future in as_completed([pool.submit(write_shard, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
