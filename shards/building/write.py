"""Build a shard set from a dataset's files: plan, write shards in parallel processes, complete with a manifest.

Jobs on many nodes may share a build. Each job makes the same plan, writes the shards assigned to it and, if all shards
exist when it finishes, writes the manifest. No two jobs write the same shard, and the manifest is the same whichever
job writes it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.core.files import clear_after_workers
from trichord.core.processes import worker_pool
from trichord.shards.building.plan import (
    REPORT,
    BuildSummary,
    ShardSize,
    SplitSummary,
    check_bad,
    cut,
    plan_digest,
    survey,
)
from trichord.shards.building.shard_file import ShardRecord, ShardTask, Skipped, finished, write_shard
from trichord.shards.building.transcode import Mode, Preset
from trichord.shards.layouts import Layout, Listing
from trichord.shards.reading.manifest import FILE_NAME, Manifest, ShardEntry

_OWN_FILE = re.compile(r"\.?(?P<shard>\d{5})\.(tar|done\.json)(\..*\.partial)?")

Records = dict[str, ShardRecord]  # by the task's name


@dataclass(frozen=True)
class _Order:
    """The validated options of a build."""

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


@dataclass(frozen=True)
class _Plan:
    """The shards of a split, and those assigned to this process."""

    split: str
    listing: Listing
    tasks: list[ShardTask]
    own: list[ShardTask]


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
    part: tuple[int, int] = (1, 1),
) -> BuildSummary:
    """Write OUT/SPLIT/00000.tar … and OUT/SPLIT/manifest.json for each split; a rerun continues where it stopped.

    The same input and options produce the same bytes for any number of workers and parts with one version of PyAV
    (re-encoded sound only on the same kind of processor). `limit` keeps that many clips of each split after the
    shuffle. Without a size target a shard has 512 clips. `part` is (number, total) with numbers from 1: part k of n
    writes every n-th shard, starting from the k-th, and the last part to finish writes the manifest.
    """
    found = survey(layout, root, options, splits, max_missing_fraction)
    size = ShardSize.of(samples_per_shard, bytes_per_shard)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    preset = preset or Preset()
    order = _Order(found.layout, root, out, Mode(mode), preset, size, workers, seed, shuffle, limit, max_bad_fraction)
    return BuildSummary(splits=tuple(_build_split(order, plan) for plan in _plans(order, found.listings, part)))


def _plans(order: _Order, listings: Mapping[str, Listing], part: tuple[int, int]) -> list[_Plan]:
    """Assign the shards of all splits to parts in turn, so that no part gets the first shard of every small split."""
    number, parts = part
    plans = []
    assigned = 0
    for split, listing in listings.items():
        tasks = _tasks(order, order.out / split, listing)
        own = [task for place, task in enumerate(tasks, assigned) if place % parts == number - 1]
        plans.append(_Plan(split, listing, tasks, own))
        assigned += len(tasks)
    return plans


def _tasks(order: _Order, folder: Path, listing: Listing) -> list[ShardTask]:
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


def _build_split(order: _Order, plan: _Plan) -> SplitSummary:
    folder = order.out / plan.split
    _claim(folder, {task.name for task in plan.tasks})
    done = _whole(plan.tasks)
    reused = sum(task.name in done for task in plan.own)
    summary = SplitSummary(
        split=plan.split,
        folder=folder,
        layout=order.layout.name,
        options=order.layout.model_dump(),
        mode=order.mode,
        preset=order.preset,
        seed=order.seed,
        finished=False,
        planned_shards=len(plan.tasks),
        reused_shards=reused,
        classes=len(plan.listing.classes),
        missing=plan.listing.missing,
    )
    if len(done) < len(plan.tasks):  # an incomplete set must not have a manifest
        (folder / FILE_NAME).unlink(missing_ok=True)
        summary.save()
    _write(order, plan, done)
    others = [task for task in plan.tasks if task.name not in done]
    if others:  # a write makes NFS refresh its view of the folder; otherwise the last two parts may miss each other
        _count(summary, plan, done).save()
        done |= _whole(others)
    summary = _count(summary, plan, done)
    return _complete(order, plan, summary, done) if len(done) == len(plan.tasks) else summary


def _write(order: _Order, plan: _Plan, done: Records) -> None:
    """Write the shards assigned to this process that are not yet complete."""
    folder = order.out / plan.split
    todo = [task for task in plan.own if task.name not in done]
    _check_bad(order, plan.split, plan.own, done)
    with contextlib.closing(_written(todo, order.workers, folder)) as written:
        for record in track(written, f"shards of {plan.split}", len(todo)):
            done[record.name.removesuffix(".tar")] = record
            _check_bad(order, plan.split, plan.own, done)


def _complete(order: _Order, plan: _Plan, summary: SplitSummary, done: Records) -> SplitSummary:
    """Write the manifest and mark the split as finished."""
    _check_bad(order, plan.split, plan.tasks, done)
    entries = tuple(_entries(plan.tasks, done))
    Manifest(name=order.layout.name, split=plan.split, shards=entries, classes=plan.listing.classes).save(
        summary.folder
    )
    summary = summary.model_copy(update={"finished": True})
    summary.save()
    return summary


def _whole(tasks: Iterable[ShardTask]) -> Records:
    return {task.name: record for task in tasks if (record := finished(task)) is not None}


def _count(summary: SplitSummary, plan: _Plan, done: Records) -> SplitSummary:
    entries = _entries(plan.tasks, done)
    found = {
        "whole_shards": len(done),
        "shards": len(entries),
        "samples": sum(entry.samples for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "skipped": tuple(_skipped(plan.tasks, done)),
    }
    return summary.model_copy(update=found)


def _entries(tasks: Iterable[ShardTask], done: Records) -> list[ShardEntry]:
    records = [done[task.name] for task in tasks if task.name in done]
    return [
        ShardEntry(name=record.name, samples=record.samples, bytes=record.bytes, sha256=record.sha256)
        for record in records
        if record.samples
    ]


def _check_bad(order: _Order, split: str, tasks: Sequence[ShardTask], done: Records) -> None:
    check_bad(_skipped(tasks, done), sum(len(task.items) for task in tasks), order.max_bad_fraction, split)


def _skipped(tasks: Iterable[ShardTask], done: Records) -> list[Skipped]:
    return [skipped for task in tasks if task.name in done for skipped in done[task.name].skipped]


def _claim(folder: Path, names: set[str]) -> None:
    """Create the folder; refuse one with shards of other origin, and delete the files of an earlier plan."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")) and not (folder / REPORT).exists():  # in this order: another part may be starting
        raise UserError(f"{folder} contains shards that were not built here. Next: choose an empty folder as --out.")
    for path in folder.iterdir():
        own = _OWN_FILE.fullmatch(path.name)
        if own and own["shard"] not in names:
            path.unlink(missing_ok=True)


def _written(tasks: Sequence[ShardTask], workers: int, folder: Path) -> Generator[ShardRecord, None, None]:
    """Write shards in this process or in workers; yield each record when its shard is complete."""
    again = "Finished shards are kept. Next: run the same command once more"
    try:
        if workers <= 1 or len(tasks) <= 1:
            yield from map(write_shard, tasks)
        else:
            with worker_pool(min(workers, len(tasks)), "trichord.shards.building.shard_file", "webdataset") as pool:
                for future in as_completed([pool.submit(write_shard, task) for task in tasks]):
                    yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"A worker process died while writing shards to {folder}. It was probably killed because memory ran out. "
            f"{again}, with fewer --workers."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error}. {again} after correcting this.") from error
    finally:
        clear_after_workers(folder)
