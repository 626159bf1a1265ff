"""`trichord embed`, `search` and `retrieval`: make vectors, ask for them, and test how well they find."""

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
    """Read a length of time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"found {text!r}, expected seconds above 0, such as 2.5")
    return value


def pairs(given: list[str]) -> dict[str, str]:
    """Read NAME=TEXT, where the text is taken as it is."""
    found = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name or not text:
            raise UserError(f"--where: found {pair!r}, expected NAME=TEXT, such as label=jumping")
        found[name] = text
    return found


def _declare_embed(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of video and text, or a file of CLIP")
    parser.add_argument("shards", metavar="SHARDS", help="a folder of shards with its manifest.json, or where they lie")
    add_out(parser, "gets a file of vectors for each shard; run again, it continues")
    add_part(parser, "embed every N-th shard from the I-th on, other jobs the rest")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the vectors")
    parser.add_argument("--windows", type=seconds, metavar="SECONDS", help="a vector for each window of a video")
    parser.add_argument("--stride", type=seconds, metavar="SECONDS", help="from window to window (default: no overlap)")
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help="clips at once")
    parser.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="processes that decode")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep shards from elsewhere here")
    parser.add_argument(
        "--max-bad-fraction", type=share, default=0.05, metavar="SHARE", help="of unusable clips, before it stops"
    )
    add_json(parser)


def _run_embed(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    from trichord.finetune.retrieval.embed import Order, embed
    from trichord.finetune.retrieval.embedder import Embedder
    from trichord.finetune.retrieval.spec import Windows

    if arguments.stride and not arguments.windows:
        raise UserError("--stride is from window to window, and --windows is missing: say how long they are")
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
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--text", metavar="TEXT", help="find what suits these words")
    asked.add_argument("--video", type=Path, metavar="FILE", help="find what a video is like")
    asked.add_argument("--audio", type=Path, metavar="FILE", help="find what suits a sound, or that of a video")
    asked.add_argument("--like", metavar="KEY", help="find what a row of the index is like")
    parser.add_argument("-k", type=at_least(1), default=10, metavar="N", help="how many")
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=TEXT",
        help="only among rows of this label, shard, caption, root or key",
    )
    parser.add_argument("--weights", type=Path, metavar="RUN_OR_FILE", help="where the index's model is now")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw what was found")
    parser.add_argument("--html", type=Path, metavar="FILE", help="make a page in which what was found plays")
    add_json(parser)


def _run_search(arguments: Namespace) -> int:
    from trichord.finetune.retrieval.index import Index

    where = pairs(arguments.where)
    index = Index.open(arguments.index)
    if arguments.weights:
        from trichord.finetune.retrieval.embedder import Embedder

        index.use(Embedder.open(arguments.weights))
    asked = {name: getattr(arguments, name) for name in ("text", "video", "audio", "like")}
    hits = index.search(**asked, k=arguments.k, where=where)
    rows = [_told(place, hit) for place, hit in enumerate(hits, 1)]
    told = next(f"{name} {value}" for name, value in asked.items() if value is not None)
    show_figures(f"nearest to {told} of {len(index):,}", rows, arguments.json)
    if arguments.sheet:
        from trichord.finetune.retrieval.playable import draw_hits

        draw_hits(f"nearest to {told}", hits, arguments.sheet)
    if arguments.html:
        from trichord.finetune.retrieval.playable import write_hits

        write_hits(f"nearest to {told}", hits, arguments.html)
    return 0


def _told(place: int, hit: Hit) -> dict[str, object]:
    time = f"{hit.start_s:.1f}-{hit.end_s:.1f} s"
    told = {"rank": place, "score": round(hit.score, 4), "key": hit.key, "time": time, "caption": hit.caption}
    return {**told, "label": hit.label.replace("\n", ", "), "shard": hit.shard}


def _declare_retrieval(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of video and text, or a file of CLIP")
    parser.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help="sets to test on, as one")
    parser.add_argument(
        "--captions", choices=("all", "first"), default="all", help="of a clip that has several, ask with each or one"
    )
    parser.add_argument(
        "--bank", nargs="+", default=[], metavar="SHARDS", help="sets of training, whose queries correct hubs: QB-Norm"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips at once on each rank")
    parser.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="processes that read, per rank")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep shards from elsewhere here")
    parser.add_argument("--name", metavar="NAME", help="of the files (default: captions and the sets' folders)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="gets evaluations/ (default: the run; none for a file)")
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
    "make vectors of a shard set's videos, captions and sounds",
    _declare_embed,
    _run_embed,
    (
        "trichord embed runs/told shards/val --out vectors/val",
        "trichord embed runs/told films --out vectors/films --windows 4 --stride 2 --workers 8",
        "trichord launch --array 16 --gpus-per-node 1 embed runs/told k400/train --out vectors/k400",
    ),
    _embed_job,
)
SEARCH = Command(
    "search",
    "find the videos, texts or sounds that are nearest to a question",
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
    "test how well captions find their videos, and videos their captions",
    _declare_retrieval,
    _run_retrieval,
    (
        "trichord retrieval runs/told --data msrvtt/test",
        "trichord retrieval runs/told --data msvd/test --captions all --bank msvd/train",
        "torchrun --nproc-per-node 8 -m trichord -- retrieval runs/told --data msrvtt/test",
    ),
)
