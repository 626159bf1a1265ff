"""The commands that change an index: their parsed arguments, and the table of segments that they print."""

from __future__ import annotations

from argparse import Namespace

from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.finetune.retrieval.building import Options
from trichord.finetune.retrieval.changing import add, build, check, merge, remove
from trichord.finetune.retrieval.rows import read_filter
from trichord.finetune.retrieval.spec import INDEX_KINDS, Catalogue, SegmentEntry


def run_build(arguments: Namespace) -> int:
    """Build the index of parsed arguments and print its segments."""
    out = arguments.out or arguments.folders[0] / "index"
    return _show(str(out), build(arguments.folders, out, arguments.modality, _options(arguments)), arguments.json)


def run_add(arguments: Namespace) -> int:
    """Add the embeddings of parsed arguments to an index."""
    return _show(str(arguments.index), add(arguments.index, arguments.folders, _options(arguments)), arguments.json)


def run_remove(arguments: Namespace) -> int:
    """Remove the rows that parsed arguments name."""
    where = read_filter(arguments.where)
    if not arguments.keys and not where:
        raise UserError("expected keys to remove, or --where NAME=TEXT")
    catalogue, removed = remove(arguments.index, arguments.keys, where)
    return _show(f"{arguments.index}, rows removed: {removed:,}", catalogue, arguments.json)


def run_merge(arguments: Namespace) -> int:
    """Merge the segments of an index."""
    return _show(str(arguments.index), merge(arguments.index, _options(arguments)), arguments.json)


def run_check(arguments: Namespace) -> int:
    """Verify the checksums of an index."""
    return _show(f"{arguments.index} is intact", check(arguments.index), arguments.json)


def _options(arguments: Namespace) -> Options:
    if not arguments.memory_gb > 0:
        raise UserError(f"--memory-gb {arguments.memory_gb}: expected a number above 0")
    return Options(int(arguments.memory_gb * 10**9), arguments.recall, arguments.kind)


def _show(title: str, catalogue: Catalogue, as_json: bool) -> int:
    rows = [
        {
            "segment": segment.name,
            "rows": segment.count - segment.gone,
            "removed": segment.gone,
            "kind": segment.kind,
            "recall@10": segment.measured.recall,
            "asked with": _asked_with(segment),
            "probes": segment.settings.probes or None,
            "candidates": segment.settings.candidates or None,
            "factor": segment.settings.factor,
            "MB": round(sum(file.bytes for file in segment.files.values()) / 1e6, 1),
        }
        for segment in catalogue.segments
    ]
    show_figures(f"{title}: {catalogue.count:,} of {catalogue.sense}, model {catalogue.model[:12]}", rows, as_json)
    for segment in catalogue.segments:
        found = segment.measured
        if found.recall is not None and found.recall < found.target and not as_json:
            print(
                f"{segment.name} finds {found.recall:.3f} of the nearest ten, less than the target {found.target}. "
                "Next: trichord index merge with --kind hnsw, or with a larger --memory-gb"
            )
    return 0


def _asked_with(segment: SegmentEntry) -> str:
    found = segment.measured
    return "exact" if INDEX_KINDS[segment.kind].is_exact else f"{found.queries} {found.of}"
