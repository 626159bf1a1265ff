"""Decode a shard set, all of it or a sample, and report errors by cause and the properties of the good clips.

One process checks one shard at a time; only a row of numbers is kept of each clip, so memory use stays low.
"""

from __future__ import annotations

import hashlib
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from trichord.core.console import show_figures, track
from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.processes import worker_pool
from trichord.core.seeds import generator
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.inspection.verify_report import QUANTITIES, ClipFacts, Finding, Sound, VerifyReport, check_clip
from trichord.shards.reading.archive import Archive, open_archive
from trichord.shards.reading.manifest import Manifest, ShardEntry
from trichord.shards.reading.root import Root, parse_root
from trichord.shards.reading.transfer import TransferPolicy
from trichord.shards.record import LabelRule

_NAMED_PER_SHARD = 100  # counts are exact; at most this many are listed


@dataclass(frozen=True)
class Inspection:
    """The settings of a verification, which are sent to the workers."""

    root: Root
    limits: DecodeLimits
    cache_dir: Path | None = None
    policy: TransferPolicy = field(default_factory=TransferPolicy)
    with_checksums: bool = False
    labels: LabelRule | None = None


@dataclass(frozen=True)
class VerifyTask:
    """One shard to verify; `positions` are the samples to decode, None for all."""

    entry: ShardEntry
    positions: tuple[int, ...] | None


class ShardFindings:
    """The results of one shard."""

    def __init__(self) -> None:
        self.counts: Counter[Cause] = Counter()
        self.named: list[Finding] = []
        self.disagreements: list[str] = []
        self.checked = 0
        self.tallies: Counter[tuple[str, str]] = Counter()
        self.quantities: dict[str, list[float]] = {name: [] for name in QUANTITIES}

    def note(self, shard: str, key: str, cause: Cause, detail: str, times: int = 1) -> None:
        """Count an error, and list it while the list is short."""
        self.counts[cause] += times
        if len(self.named) < _NAMED_PER_SHARD:
            self.named.append(Finding(shard, key, cause, detail))

    def add(self, facts: ClipFacts) -> None:
        """Add the properties of a good clip."""
        for name, values in self.quantities.items():
            values.append(float(getattr(facts, name)))
        self.tallies["video_codec", facts.video_codec] += 1
        self.tallies["sound_codec", facts.sound_codec or "none"] += 1
        self.tallies["clips", "no_sound_track"] += facts.sound is Sound.NO_TRACK
        self.tallies["clips", "sound_all_zero"] += facts.sound is Sound.ALL_ZERO
        self.tallies["clips", "with_caption"] += facts.has_caption
        self.tallies["clips", "with_labels"] += facts.has_labels
        self.tallies["clips", "with_damaged_frames"] += facts.damaged_frames > 0


def verify(
    root: str | Path,
    *,
    sample: int | float | None = None,
    workers: int = 1,
    limits: DecodeLimits | None = None,
    cache_dir: Path | None = None,
    seed: int = 0,
    manifest: Path | None = None,
    with_checksums: bool = False,
) -> VerifyReport:
    """Verify every clip of a shard set, or `sample` of them: a number (int) or a share of all (float).

    With a sample, only the shards that hold some of it are opened.
    """
    where = parse_root(root)
    listed = Manifest.load(manifest or root)
    rule = LabelRule(classes=len(listed.classes), intervals=True) if listed.classes else None
    inspection = Inspection(where, limits or DecodeLimits(), cache_dir, with_checksums=with_checksums, labels=rule)
    tasks = _choose(listed, sample, seed)
    report = VerifyReport(where.text, samples_promised=listed.samples, shards_promised=len(listed.shards))
    for findings in track(_results(tasks, inspection, workers), "verifying shards", len(tasks)):
        report.take(
            findings.checked,
            findings.counts,
            findings.named,
            findings.disagreements,
            findings.tallies,
            {name: np.asarray(values, np.float32) for name, values in findings.quantities.items()},
        )
    return report


def _choose(manifest: Manifest, sample: int | float | None, seed: int) -> list[VerifyTask]:
    """Return the samples to verify: the same for the same seed and manifest."""
    if sample is None:
        return [VerifyTask(entry, None) for entry in manifest.shards]
    total = manifest.samples
    wanted = min(total, sample if isinstance(sample, int) else round(sample * total))
    if wanted < 1:
        raise UserError(f"a sample of {sample} is empty (clips in the set: {total}). Next: --sample 100")
    chosen = np.sort(generator(seed, "verify").choice(total, wanted, replace=False))
    ends = np.cumsum([entry.samples for entry in manifest.shards])
    shards = np.searchsorted(ends, chosen, side="right")
    tasks = []
    for number in np.unique(shards).tolist():
        entry = manifest.shards[number]
        positions = chosen[shards == number] - (int(ends[number]) - entry.samples)
        tasks.append(VerifyTask(entry, tuple(positions.tolist())))
    return tasks


def _results(tasks: Sequence[VerifyTask], inspection: Inspection, workers: int) -> Iterator[ShardFindings]:
    work = partial(verify_shard, inspection)
    if workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    done = 0
    with worker_pool(min(workers, len(tasks)), __name__) as pool:
        try:
            for findings in pool.map(work, tasks):
                done += 1
                yield findings
        except BrokenProcessPool as error:
            near = ", ".join(task.entry.name for task in tasks[done : done + 2 * workers])
            raise UserError(
                f"a worker process died (out of memory, or a crash in a decoder) at one of these shards: {near}. "
                "Next: the same command with --workers 1"
            ) from error


def verify_shard(inspection: Inspection, task: VerifyTask) -> ShardFindings:
    """Verify one shard."""
    findings = ShardFindings()
    entry = task.entry
    try:
        archive = open_archive(
            inspection.root,
            entry.name,
            cache_dir=inspection.cache_dir,
            size=entry.bytes,
            sha256=entry.sha256,
            max_bytes=inspection.limits.max_bytes,
            policy=inspection.policy,
        )
    except SampleError as error:
        lost = entry.samples if task.positions is None else len(task.positions)
        findings.note(entry.name, "", error.cause, error.detail, max(lost, 1))
        findings.checked += lost
        return findings
    try:
        _compare(archive, inspection, entry, findings)
        _note_left_out(archive, findings)
        positions = range(len(archive)) if task.positions is None else task.positions
        for position in positions:
            _check(archive, position, inspection, findings)
        missing = max(entry.samples - len(archive), 0) if task.positions is None else 0
        if missing:
            ending = archive.listing.ending
            cause, detail = (ending.cause, ending.detail) if ending else (Cause.MISSING, "the archive ends before them")
            uncounted = missing - 1 if ending else missing  # the truncation itself is among the problems noted above
            findings.note(entry.name, f"(samples {len(archive)} to {entry.samples - 1})", cause, detail, uncounted)
            findings.checked += missing
    finally:
        archive.close()
    return findings


def _check(archive: Archive, position: int, inspection: Inspection, findings: ShardFindings) -> None:
    findings.checked += 1
    key = archive.keys[position] if position < len(archive) else f"(sample {position})"
    try:
        findings.add(check_clip(archive.read(position), inspection.limits, inspection.labels))
    except SampleError as error:
        findings.note(archive.name, key, error.cause, error.detail)


def _note_left_out(archive: Archive, findings: ShardFindings) -> None:
    """Count the members that were left out; only the first hundred are known by name."""
    for problem in archive.problems:
        findings.note(archive.name, problem.name, problem.cause, problem.detail)
    named = Counter(problem.cause for problem in archive.problems)
    findings.counts.update(archive.listing.counts - named)


def _compare(archive: Archive, inspection: Inspection, entry: ShardEntry, findings: ShardFindings) -> None:
    """Compare the shard with the manifest."""
    if len(archive) != entry.samples:
        findings.disagreements.append(f"{entry.name}: found samples={len(archive)}, expected {entry.samples}")
    if archive.stored_bytes != entry.bytes:
        findings.disagreements.append(f"{entry.name}: found bytes={archive.stored_bytes}, expected {entry.bytes}")
    if inspection.with_checksums and entry.sha256 is not None:
        found = archive.sha256 if inspection.root.folder is None else _checksum(inspection.root.folder / entry.name)
        if found is not None and found != entry.sha256:
            findings.disagreements.append(f"{entry.name}: its checksum differs from the manifest's")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(arguments: Namespace) -> int:
    """Run `trichord shards verify`."""
    report = verify(
        arguments.root,
        sample=arguments.sample or arguments.sample_share,
        workers=arguments.workers or len(os.sched_getaffinity(0)),
        limits=DecodeLimits(timeout_s=arguments.timeout),
        cache_dir=arguments.cache,
        seed=arguments.seed,
        manifest=arguments.manifest,
        with_checksums=arguments.checksums,
    )
    title = f"verification of {report.root}"
    if arguments.json:
        details = {"of_a_clip": report.spreads(), "bad_list": report.listed(), "disagreements": report.disagreements}
        show_figures(title, [{**report.overview(), **details}], as_json=True)
        return report.exit_code
    for rows, name in ((report.listed(), "errors"), (report.spreads(), "properties of the good clips")):
        if rows:
            show_figures(name, rows, as_json=False)
    for line in report.disagreements:
        print(line, file=sys.stderr)
    show_figures(title, [report.overview()], as_json=False)
    return report.exit_code
