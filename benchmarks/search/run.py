"""Goal 12: search beside FAISS's own flat index and its HNSW32, at the same recall of the exact ten nearest.

Everything is asked on one thread, in batches of all queries, and seconds are those of the CPU; contenders take turns,
and ratios are medians over rounds. Two kinds of queries: such as are held, and captions, which lie elsewhere; each with
settings that half of it chose, and measured on the other half. The build runs in a process of its own, whose own memory
is looked at all the while, mapped files apart; opening and the first answer likewise. What autofaiss would take is a
graph too, by its own rule (2.18.0).
Legend: Q queries, N vectors, D features.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.search.world import SearchCase, World, prepare_world
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.finetune.retrieval.building import NEIGHBOURS, Asked, Options, recall, tune
from trichord.finetune.retrieval.changing import build
from trichord.finetune.retrieval.index import Index
from trichord.finetune.retrieval.kinds import LINKS, Searcher, bytes_per_vector
from trichord.finetune.retrieval.spec import Settings
from trichord.finetune.retrieval.vectors import exact_neighbours

RECALL, GOAL = 0.97, 30.0  # times Flat's queries per second
OPEN_GOAL_S = 1.0
OURS, FLAT = "ours", "FAISS Flat"
LIKE_HELD, CAPTIONS = "such as are held", "captions"
_LOOK_EVERY_S = 0.02
_SINGLE = 200  # queries one by one


class Contender(NamedTuple):
    """What is asked, with which settings for which queries, and what it takes."""

    searcher: Searcher
    settings: Mapping[str, Settings]
    about: Mapping[str, object]


class Effort(NamedTuple):
    """How much is asked, and what the build may take."""

    queries: int
    rounds: int
    memory_gb: float
    with_hnsw: bool
    keep: Path | None = None


def run_search_bench(case: SearchCase, effort: Effort, beat: Callable[[], None]) -> list[dict[str, Any]]:
    """Measure all; gives a row for each contender and kind of queries."""
    with ExitStack() as stack:
        folder = effort.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trichord-search-")))
        vectors = prepare_world(folder, case)
        beat()
        built = _built(folder, vectors, effort.memory_gb)
        opened = _in_process("open", vectors)
        beat()
        index = Index.open(vectors / "index")
        (segment,) = index.segments
        asked = _asked(case, segment.vectors_ND, effort.queries)
        beat()
        contenders = _of_faiss(case, effort, folder, segment.vectors_ND, asked)
        ours = {kind: tune(segment.searcher, halves[0], RECALL).settings for kind, halves in asked.items()}
        about = {
            "kind": segment.entry.kind,
            "bytes_per_vector": round(bytes_per_vector(segment.entry.kind, case.dim, "float16"), 1),
            "disk_bytes_per_vector": round(sum(f.bytes for f in segment.entry.files.values()) / case.rows),
            **built,
            **opened,
        }
        contenders[OURS] = Contender(segment.searcher, ours, about)
        beat()
        return [row for kind in asked for row in _rows(contenders, kind, asked[kind][1], effort.rounds, beat)]


def _built(folder: Path, vectors: Path, memory_gb: float) -> dict[str, Any]:
    """Build our index and say what that took, or say it of the one that was kept."""
    noted, case = folder / "built.json", {"budget_mib": round(memory_gb * 10**9 / 2**20)}
    if noted.exists():
        kept: dict[str, Any] = json.loads(noted.read_text())
        if case.items() <= kept.items():
            return kept
    shutil.rmtree(vectors / "index", ignore_errors=True)
    built = _in_process("build", vectors, str(memory_gb)) | case
    write_whole(noted, json.dumps(built))
    return built


def _asked(case: SearchCase, vectors_ND: NDArray[Any], queries: int) -> dict[str, tuple[Asked, Asked]]:
    """Draw queries of both kinds, and find their exact neighbours; in two halves."""
    world = World(case)
    fresh_QD = world.videos(queries, "asked")
    drawn = {LIKE_HELD: fresh_QD, CAPTIONS: world.captions(world.videos(queries, "told"), number=-1)}
    found = {}
    for kind, queries_QD in drawn.items():
        scores_Qk, _ = exact_neighbours(vectors_ND, queries_QD, NEIGHBOURS)
        asked = Asked(queries_QD, scores_Qk[:, -1])
        found[kind] = (Asked(*(each[::2] for each in asked)), Asked(*(each[1::2].copy() for each in asked)))
    return found


def _of_faiss(
    case: SearchCase,
    effort: Effort,
    folder: Path,
    vectors_ND: NDArray[Any],
    asked: Mapping[str, tuple[Asked, Asked]],
) -> dict[str, Contender]:
    """Make FAISS's own indexes of the same vectors."""
    started = time.perf_counter()
    flat = faiss.IndexFlatIP(case.dim)
    _fill(flat, vectors_ND)
    about = {"kind": "Flat", "bytes_per_vector": 4 * case.dim, "build_s": _since(started)}
    found = {FLAT: Contender(Searcher("flat", flat), dict.fromkeys(asked, Settings()), about)}
    chosen = autofaiss_links(case.rows, case.dim, effort.memory_gb)
    for links in sorted({LINKS, chosen or LINKS}) if effort.with_hnsw else ():
        graph, build_s = _graph(folder / f"hnsw{links}", vectors_ND, links)
        searcher = Searcher("hnsw", None, graph)
        settings = {kind: tune(searcher, halves[0], RECALL).settings for kind, halves in asked.items()}
        bytes_of_one = round(bytes_per_vector("hnsw", case.dim, "float32")) + 8 * (links - LINKS)
        taken = {"kind": f"HNSW{links}", "bytes_per_vector": bytes_of_one, "build_s": build_s}
        also = ", autofaiss's choice" if links == chosen else ""
        found[f"FAISS HNSW{links}{also}"] = Contender(searcher, settings, taken)
    return found


def autofaiss_links(count: int, dim: int, memory_gb: float) -> int | None:
    """Say how many links a vector has in the graph that autofaiss chooses; none where it chooses no graph."""
    if count < 1000:
        return None
    if count < 10_000:
        return 15
    links = math.floor((memory_gb * 2**30 / (4 * count) - dim) / 2)
    return min(links, 32) if links >= 8 else None


def _graph(path: Path, vectors_ND: NDArray[Any], links: int) -> tuple[Any, float]:
    """Build a graph on all threads, or read the one that was kept."""
    noted = path.with_suffix(".json")
    if noted.exists():
        return faiss.read_index(str(path)), float(json.loads(noted.read_text())["build_s"])
    started = time.perf_counter()
    graph = faiss.IndexHNSWFlat(vectors_ND.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    _fill(graph, vectors_ND)
    build_s = _since(started)
    faiss.write_index(graph, str(path))
    write_whole(noted, json.dumps({"build_s": build_s}))
    return graph, build_s


def _fill(index: Any, vectors_ND: NDArray[Any]) -> None:
    for first in range(0, len(vectors_ND), 16_384):
        index.add(np.ascontiguousarray(vectors_ND[first : first + 16_384], dtype=np.float32))


def _rows(
    contenders: Mapping[str, Contender], kind: str, asked: Asked, rounds: int, beat: Callable[[], None]
) -> list[dict[str, Any]]:
    """Let all answer in turn, on one thread; the first round warms up."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for number in range(rounds + 1):
            for name, each in contenders.items():
                started = time.process_time()
                each.searcher.search(asked.queries_QD, NEIGHBOURS, each.settings[kind])
                rates[name] += [len(asked.queries_QD) / (time.process_time() - started)] if number else []
                beat()
        recalls = {name: recall(each.searcher, asked, each.settings[kind]) for name, each in contenders.items()}
    finally:
        faiss.omp_set_num_threads(threads)
    rows = []
    for name, each in contenders.items():
        ratio = statistics.median(own / flat for own, flat in zip(rates[name], rates[FLAT], strict=True))
        goal = (GOAL if kind == LIKE_HELD else 0.0) if name == OURS else None
        settings = {what: value for what, value in each.settings[kind].model_dump().items() if value}
        rows.append(
            {
                "queries": kind,
                "whose": name,
                "recall@10": round(recalls[name], 4),
                "queries_per_s": round(statistics.median(rates[name]), 1),
                "times_flat": round(ratio, 1),
                "goal": goal or None,
                "met": None if goal is None else ratio >= goal and recalls[name] >= RECALL,
                "settings": settings,
                **each.about,
            }
        )
    return rows


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 1)


def _in_process(what: str, folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.search.run", what, str(folder), *words]
    done = subprocess.run(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"bench search: the process that was to {what} ended with exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _memory_mib(name: str = "RssAnon") -> float:
    """Give this process's memory; by that name but for mapped files, which the system drops when it likes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _build(folder: Path, memory_gb: float) -> dict[str, Any]:
    before_mib, peak_mib, is_over = _memory_mib(), [0.0], Event()

    def look() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            peak_mib[0] = max(peak_mib[0], _memory_mib())

    looking = Thread(target=look, daemon=True)
    looking.start()
    started = time.perf_counter()
    build([folder], folder / "index", "video", Options(int(memory_gb * 10**9), RECALL))
    taken = _since(started)
    is_over.set()
    looking.join()
    return {
        "build_s": taken,
        "build_mib": round(peak_mib[0] - before_mib),
        "build_mib_with_maps": round(_memory_mib("VmHWM")),
        "build_threads": faiss.omp_get_max_threads(),
    }


def _open(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    index = Index.open(folder / "index")
    query_D = index.vector(index.places("0000000000")[0])
    index.nearest(query_D[None])
    first_s = time.perf_counter() - started
    taken = []
    for number in range(min(_SINGLE, len(index.segments[0].vectors_ND))):
        query_D = np.asarray(index.segments[0].vectors_ND[number], np.float32)
        started = time.perf_counter()
        index.nearest(query_D[None])
        taken.append(time.perf_counter() - started)
    return {"open_and_first_s": round(first_s, 3), "single_p50_ms": round(1e3 * statistics.median(taken), 2)}


if __name__ == "__main__":
    told = _build(Path(sys.argv[2]), float(sys.argv[3])) if sys.argv[1] == "build" else _open(Path(sys.argv[2]))
    print("\n" + json.dumps(told))
