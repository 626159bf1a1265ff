"""`trichord index`: build an index of embeddings, change it and verify it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import Command, add_json, share
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.finetune.retrieval.commands import pairs

if TYPE_CHECKING:
    from trichord.finetune.retrieval.building import Options
    from trichord.finetune.retrieval.spec import Catalogue

SUMMARY = "build and change indexes for nearest-neighbour search"


def _declare_options(parser: ArgumentParser) -> None:
    from trichord.finetune.retrieval.spec import KINDS

    parser.add_argument(
        "--memory-gb", type=float, default=4.0, metavar="G", help="memory for building and for searching"
    )
    parser.add_argument(
        "--recall",
        type=share,
        default=0.97,
        metavar="SHARE",
        help="target share of the ten exact nearest neighbours that captions find",
    )
    parser.add_argument(
        "--kind", choices=KINDS, help="kind of search (default: by the number of vectors and the memory)"
    )


def _options(arguments: Namespace) -> Options:
    from trichord.finetune.retrieval.building import Options

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
            "asked with": f"{segment.measured.queries} {segment.measured.of}" if segment.kind != "flat" else "exact",
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


def _declare_build(parser: ArgumentParser) -> None:
    from trichord.finetune.retrieval.spec import MODALITIES

    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders written by `trichord embed`")
    parser.add_argument("--out", type=Path, metavar="INDEX", help="new folder (default: index/ in the first DIR)")
    parser.add_argument("--sense", choices=MODALITIES, default="video", help="modality of the indexed vectors")
    _declare_options(parser)
    add_json(parser)


def _run_build(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.changing import build

    out = arguments.out or arguments.folders[0] / "index"
    catalogue = build(arguments.folders, out, arguments.sense, _options(arguments))
    return _show(str(out), catalogue, arguments.json)


def _declare_add(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders written by `trichord embed` with the same model"
    )
    _declare_options(parser)
    add_json(parser)


def _run_add(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.changing import add

    return _show(str(arguments.index), add(arguments.index, arguments.folders, _options(arguments)), arguments.json)


def _declare_remove(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="keys of rows to remove")
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=TEXT",
        help="remove matching rows, as in search",
    )
    add_json(parser)


def _run_remove(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.changing import remove

    where = pairs(arguments.where)
    if not arguments.keys and not where:
        raise UserError("expected keys to remove, or --where NAME=TEXT")
    catalogue, removed = remove(arguments.index, arguments.keys, where)
    return _show(f"{arguments.index}, rows removed: {removed:,}", catalogue, arguments.json)


def _declare_merge(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    _declare_options(parser)
    add_json(parser)


def _run_merge(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.changing import merge

    return _show(str(arguments.index), merge(arguments.index, _options(arguments)), arguments.json)


def _declare_check(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    add_json(parser)


def _run_check(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.changing import check

    return _show(f"{arguments.index} is intact", check(arguments.index), arguments.json)


COMMANDS = (
    Command(
        "build",
        "build an index of embeddings",
        _declare_build,
        _run_build,
        (
            "trichord index build vectors/val",
            "trichord index build vectors/k400 vectors/films --out indexes/all --memory-gb 16 --recall 0.99",
        ),
    ),
    Command(
        "add",
        "add embeddings to an index",
        _declare_add,
        _run_add,
        ("trichord index add vectors/val/index vectors/new",),
    ),
    Command(
        "remove",
        "remove rows from an index",
        _declare_remove,
        _run_remove,
        (
            "trichord index remove vectors/val/index 000042 000043",
            "trichord index remove vectors/val/index --where shard=00000.tar",
        ),
    ),
    Command(
        "merge",
        "merge all segments into one, without removed rows",
        _declare_merge,
        _run_merge,
        ("trichord index merge vectors/val/index",),
    ),
    Command(
        "check",
        "verify the checksums of an index",
        _declare_check,
        _run_check,
        ("trichord index check vectors/val/index",),
    ),
)
