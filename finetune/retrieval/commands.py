"""`trichord embed`, `search`, `retrieval` and `index`: compute vectors, search and index them, and test retrieval."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import Command, add_json, add_out, add_part, at_least, share
from trichord.core.console import show_figures
from trichord.pretrain.engine.allocator import applied_before

if TYPE_CHECKING:
    from trichord.finetune.retrieval.index import Hit

INDEX_SUMMARY = "build and change indexes for nearest-neighbour search"
_MODALITIES = ("video", "text", "audio")


def seconds(text: str) -> float:
    """Parse a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"found {text!r}, expected seconds above 0, such as 2.5")
    return value


def _declare_embed(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of video and text, or a file of CLIP")
    parser.add_argument("shards", metavar="SHARDS", help="folder or address of shards with manifest.json")
    add_out(parser, "folder for one file of vectors per shard; a repeated command continues")
    add_part(parser, "embed every N-th shard from the I-th on; other jobs embed the rest")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="data type of the vectors")
    parser.add_argument(
        "--windows", type=seconds, metavar="SECONDS", help="compute one vector for each window of a video"
    )
    parser.add_argument(
        "--stride", type=seconds, metavar="SECONDS", help="distance between windows (default: no overlap)"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help="clips per batch")
    parser.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="decoder processes")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache folder for remote shards")
    parser.add_argument(
        "--max-bad-fraction",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="share of unusable clips above which it stops",
    )
    add_json(parser)


def _declare_search(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="TEXT", help="search by a text")
    query.add_argument("--video", type=Path, metavar="FILE", help="search by a video")
    query.add_argument("--audio", type=Path, metavar="FILE", help="search by a sound, or the sound of a video")
    query.add_argument("--like", metavar="KEY", help="search by a row of the index")
    parser.add_argument("-k", type=at_least(1), default=10, metavar="N", help="number of hits")
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=TEXT",
        help="search only rows with this label, shard, caption, root or key",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="RUN_OR_FILE",
        help="run or file that holds the model of the index, if it was moved",
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw the hits to this file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that plays the hits")
    add_json(parser)


def _run_search(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.index import Index
    from trichord.finetune.retrieval.rows import read_filter

    where = read_filter(arguments.where)
    index = Index.open(arguments.index)
    if arguments.weights:
        from trichord.finetune.retrieval.embedder import Embedder

        index.use(Embedder.load(arguments.weights))
    query = {name: getattr(arguments, name) for name in ("text", "video", "audio", "like")}
    hits = index.search(**query, k=arguments.k, where=where)
    rows = [_row(place, hit) for place, hit in enumerate(hits, 1)]
    description = next(f"{name} {value}" for name, value in query.items() if value is not None)
    show_figures(f"nearest to {description} of {len(index):,}", rows, arguments.json)
    if arguments.sheet or arguments.html:
        from trichord.finetune.retrieval.playable import save_hits

        save_hits(f"nearest to {description}", hits, arguments.sheet, arguments.html)
    return 0


def _row(place: int, hit: Hit) -> dict[str, object]:
    time = f"{hit.start_s:.1f}-{hit.end_s:.1f} s"
    row = {"rank": place, "score": round(hit.score, 4), "key": hit.key, "time": time, "caption": hit.caption}
    return {**row, "label": hit.label.replace("\n", ", "), "shard": hit.shard}


def _declare_retrieval(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of video and text, or a file of CLIP")
    parser.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help="shard sets to test on, together")
    parser.add_argument(
        "--captions",
        choices=("all", "first"),
        default="all",
        help="for clips with several captions, search with all or with the first",
    )
    parser.add_argument(
        "--bank", nargs="+", default=[], metavar="SHARDS", help="training sets, whose queries correct for hubs: QB-Norm"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch on each rank")
    parser.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="reader processes per rank")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache folder for remote shards")
    parser.add_argument("--name", metavar="NAME", help="file name of reports (default: captions and set folders)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for evaluations/ (default: the run; none for a file)"
    )
    add_json(parser)


def _declare_options(parser: ArgumentParser) -> None:
    from trichord.finetune.retrieval.spec import INDEX_KINDS

    parser.add_argument(
        "--memory-gb", type=float, default=4.0, metavar="G", help="memory limit for building and for searching, in GB"
    )
    parser.add_argument(
        "--recall",
        type=share,
        default=0.97,
        metavar="SHARE",
        help="target for recall@10: the share of the exact ten nearest neighbours that a search finds",
    )
    parser.add_argument(
        "--kind",
        choices=tuple(INDEX_KINDS),
        help="kind of index (default: chosen by the number of vectors and the memory)",
    )


def _declare_build(parser: ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders written by `trichord embed`")
    parser.add_argument("--out", type=Path, metavar="INDEX", help="new folder (default: index/ in the first DIR)")
    parser.add_argument("--modality", choices=_MODALITIES, default="video", help="modality of the indexed vectors")
    parser.add_argument("--sense", dest="modality", choices=_MODALITIES, default=SUPPRESS, help=SUPPRESS)  # formerly
    _declare_options(parser)
    add_json(parser)


def _declare_add(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders written by `trichord embed` with the same model"
    )
    _declare_options(parser)
    add_json(parser)


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


def _declare_merge(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    _declare_options(parser)
    add_json(parser)


def _declare_check(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of an index")
    add_json(parser)


EMBED = Command(
    "embed",
    "compute vectors of the videos, captions and sounds of a shard set",
    _declare_embed,
    applied_before("trichord.finetune.retrieval.embed:run_embed"),
    (
        "trichord embed runs/video_text shards/val --out vectors/val",
        "trichord embed runs/video_text films --out vectors/films --windows 4 --stride 2 --workers 8",
        "trichord launch --array 16 --gpus-per-node 1 embed runs/video_text k400/train --out vectors/k400",
    ),
    "trichord.finetune.jobs:embed_job",
)
SEARCH = Command(
    "search",
    "search an index for the videos, texts or sounds nearest to a query",
    _declare_search,
    _run_search,
    (
        'trichord search vectors/val/index --text "a person opens a box" --html found.html',
        "trichord search vectors/val/index --video clip.mp4 -k 20 --where label=jumping --sheet found.png",
        "trichord search vectors/val/index --like 000042 --json",
    ),
)
RETRIEVAL = Command(
    "retrieval",
    "test retrieval of videos by captions, and of captions by videos",
    _declare_retrieval,
    applied_before("trichord.finetune.retrieval.evaluate:run_retrieval"),
    (
        "trichord retrieval runs/video_text --data msrvtt/test",
        "trichord retrieval runs/video_text --data msvd/test --captions all --bank msvd/train",
        "torchrun --nproc-per-node 8 -m trichord -- retrieval runs/video_text --data msrvtt/test",
    ),
)
INDEX_COMMANDS = (
    Command(
        "build",
        "build an index of embeddings",
        _declare_build,
        "trichord.finetune.retrieval.index_commands:run_build",
        (
            "trichord index build vectors/val",
            "trichord index build vectors/k400 vectors/films --out indexes/all --memory-gb 16 --recall 0.99",
        ),
    ),
    Command(
        "add",
        "add embeddings to an index",
        _declare_add,
        "trichord.finetune.retrieval.index_commands:run_add",
        ("trichord index add vectors/val/index vectors/new",),
    ),
    Command(
        "remove",
        "remove rows from an index",
        _declare_remove,
        "trichord.finetune.retrieval.index_commands:run_remove",
        (
            "trichord index remove vectors/val/index 000042 000043",
            "trichord index remove vectors/val/index --where shard=00000.tar",
        ),
    ),
    Command(
        "merge",
        "merge all segments into one, without removed rows",
        _declare_merge,
        "trichord.finetune.retrieval.index_commands:run_merge",
        ("trichord index merge vectors/val/index",),
    ),
    Command(
        "check",
        "verify the checksums of an index",
        _declare_check,
        "trichord.finetune.retrieval.index_commands:run_check",
        ("trichord index check vectors/val/index",),
    ),
)
