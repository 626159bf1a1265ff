"""The commands that look at shards and change nothing; rooms are imported when their command was typed."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from shards.command import Command, add_json, add_workers, at_least, share
from shards.console import show_figures


def _declare_verify(parser: ArgumentParser) -> None:
    _declare_shard_set(parser)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--sample", type=at_least(1), metavar="N", help="decode so many clips (default: all)")
    some.add_argument("--sample-share", type=share, metavar="SHARE", help="decode this share of the clips")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the choice of clips")
    parser.add_argument("--checksums", action="store_true", help="hold each shard against the manifest's sha256")
    parser.add_argument(
        "--timeout", type=at_least(1), default=300, metavar="SECONDS", help="that one clip may take (default: 300)"
    )
    add_workers(parser)
    add_json(parser)


def _run_verify(arguments: Namespace) -> int:
    from shards.track import DecodeLimits
    from shards.verify import verify

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
    for rows, name in ((report.listed(), "what is bad"), (report.spreads(), "what the good clips are like")):
        if rows:
            show_figures(name, rows, as_json=False)
    for line in report.disagreements:
        print(line, file=sys.stderr)
    show_figures(title, [report.overview()], as_json=False)
    return report.exit_code


def _declare_shard_set(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a folder of shards with its manifest.json, or where they lie")
    parser.add_argument("--manifest", type=Path, metavar="DIR", help="where manifest.json lies, if not at ROOT")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep shards from elsewhere here")


COMMANDS = (
    Command(
        "verify",
        "decode everything, or a sample, and count what is bad by cause",
        _declare_verify,
        _run_verify,
        (
            "trichord shards verify shards/train",
            "trichord shards verify shards/train --sample 500 --checksums --json",
        ),
    ),
)
