"""`trichord embed`, `search` and `retrieval`: compute vectors, search them, and test retrieval."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import Command, add_json, add_out, add_part, at_least, share
from trichord.core.console import show_figures
from trichord.core.errors import UserError

if TYPE_CHECKING:
    from trichord.core.job import Job
    from trichord.finetune.retrieval.index import Hit


def seconds(text: str) -> float:
    """Parse a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"found {text!r}, expected seconds above 0, such as 2.5")
    return value


def pairs(given: list[str]) -> dict[str, str]:
    """Parse NAME=TEXT pairs; the text is used verbatim."""
    found = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name or not text:
            raise UserError(f"--where: found {pair!r}, expected NAME=TEXT, such as label=jumping")
        found[name] = text
    return found


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


def _run_embed(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    from trichord.finetune.retrieval.embed import Order, embed
    from trichord.finetune.retrieval.embedder import Embedder
    from trichord.finetune.retrieval.spec import Windows

    if arguments.stride and not arguments.windows:
        raise UserError("--stride is the distance between windows, but --windows is missing: give their length")
    windows = None
    if arguments.windows:
        windows = Windows(seconds=arguments.windows, stride_s=arguments.stride or arguments.windows)
    names = ("out", "dtype", "batch_size", "workers", "cache", "max_bad_fraction")
    order = Order(
        root=arguments.shards,
        windows=windows,
        part=arguments.part or (1, 1),
        **{name: getattr(arguments, name) for name in names},
    )
    done = embed(Embedder.open(arguments.run_folder), arguments.run_folder, order)
    row = {
        "parts": done.written,
        "there before": done.found,
        "of": len(done.embedding.shards),
        "rows": done.rows,
        "bad": done.bad,
        "features": done.embedding.dim,
        "senses": ", ".join(done.embedding.senses),
        "model": done.embedding.model[:12],
        "folder": str(arguments.out),
    }
    show_figures(f"embedded {arguments.shards} by {arguments.run_folder}", [row], arguments.json)
    return 0


def _embed_job(arguments: Namespace) -> Job:
    from trichord.finetune.retrieval.job import embed_job

    return embed_job(arguments)


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
    parser.add_argument("--weights", type=Path, metavar="RUN_OR_FILE", help="where the model of the index is now")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw the hits")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that plays the hits")
    add_json(parser)


def _run_search(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.index import Index

    where = pairs(arguments.where)
    index = Index.open(arguments.index)
    if arguments.weights:
        from trichord.finetune.retrieval.embedder import Embedder

        index.use(Embedder.open(arguments.weights))
    query = {name: getattr(arguments, name) for name in ("text", "video", "audio", "like")}
    hits = index.search(**query, k=arguments.k, where=where)
    rows = [_row(place, hit) for place, hit in enumerate(hits, 1)]
    description = next(f"{name} {value}" for name, value in query.items() if value is not None)
    show_figures(f"nearest to {description} of {len(index):,}", rows, arguments.json)
    if arguments.sheet:
        from trichord.finetune.retrieval.playable import draw_hits

        draw_hits(f"nearest to {description}", hits, arguments.sheet)
    if arguments.html:
        from trichord.finetune.retrieval.playable import write_hits

        write_hits(f"nearest to {description}", hits, arguments.html)
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


def _run_retrieval(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    import torch

    from trichord.finetune.retrieval.embedder import Embedder
    from trichord.finetune.retrieval.evaluate import Question, evaluate, report
    from trichord.pretrain.engine.allocator import thread_plan
    from trichord.pretrain.engine.distributed import join_world, leave_world

    world = join_world()
    torch.set_num_threads(thread_plan(world.place.local_size))
    embedder = Embedder.open(arguments.run_folder, world.device)
    names = ("captions", "batch_size", "workers", "cache")
    question = Question(
        data=tuple(arguments.data),
        bank=tuple(arguments.bank),
        **{name: getattr(arguments, name) for name in names},
    )
    answer = evaluate(embedder, question, world)
    if world.rank == 0:
        step = embedder.opened.about["step"]
        folder = arguments.out or (arguments.run_folder if step is not None else None)
        written = report(folder, arguments.name, arguments.run_folder, embedder, question, answer) if folder else ()
        show_figures(f"retrieval by {arguments.run_folder}", answer.rows(), arguments.json)
        if written and not arguments.json:
            print(f"written: {', '.join(map(str, written))}")
    leave_world()
    return 0


EMBED = Command(
    "embed",
    "compute vectors of the videos, captions and sounds of a shard set",
    _declare_embed,
    _run_embed,
    (
        "trichord embed runs/video_text shards/val --out vectors/val",
        "trichord embed runs/video_text films --out vectors/films --windows 4 --stride 2 --workers 8",
        "trichord launch --array 16 --gpus-per-node 1 embed runs/video_text k400/train --out vectors/k400",
    ),
    _embed_job,
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
    _run_retrieval,
    (
        "trichord retrieval runs/video_text --data msrvtt/test",
        "trichord retrieval runs/video_text --data msvd/test --captions all --bank msvd/train",
        "torchrun --nproc-per-node 8 -m trichord -- retrieval runs/video_text --data msrvtt/test",
    ),
)
