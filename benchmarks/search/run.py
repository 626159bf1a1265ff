"""Search beside FAISS's own flat index and its HNSW32, at the same recall of the exact ten nearest neighbours.

All searches run on one thread, in batches of all queries; times are CPU time. There are two kinds of queries: videos
drawn like those in the index, and captions, which lie elsewhere. Settings are chosen on half of the queries of a kind
and measured on the other half. The build runs in a process of its own, whose memory without mapped files is sampled
throughout; so does loading up to the first result. The choice of autofaiss is a graph too, by its own rule (2.18.0).
Legend: Q queries, N vectors, D features.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Beat, Ratio, take_turns, timed
from benchmarks.processes import memory_mib, run_alone
from benchmarks.search.synthetic import SearchCase, SyntheticEmbeddings, prepare_embeddings
from trichord.core.files import write_whole
from trichord.finetune.retrieval.building import NEIGHBOURS, Asked, Options, recall, tune
from trichord.finetune.retrieval.changing import build
from trichord.finetune.retrieval.index import Index
from trichord.finetune.retrieval.kinds import LINKS, Flat, Graph, Searcher
from trichord.finetune.retrieval.spec import SearchSettings
from trichord.finetune.retrieval.vectors import exact_neighbours

RECALL, GOAL = 0.97, 30.0  # times Flat's queries per second
OPEN_GOAL_S = 1.0
OURS, FLAT = "ours", "FAISS Flat"
VIDEOS, CAPTIONS = "videos", "captions"
_SAMPLE_EVERY_S = 0.02
_SINGLE = 200  # queries that are searched one by one


class SearchContender(NamedTuple):
    """An index, its settings by kind of queries, and the figures of its size and build."""

    searcher: Searcher
    settings: Mapping[str, SearchSettings]
    about: Mapping[str, object]


class Effort(NamedTuple):
    """The number of queries and rounds, and the memory of the build."""

    queries: int
    rounds: int
    memory_gb: float
    with_hnsw: bool
    keep: Path | None = None


def run_search_bench(case: SearchCase, effort: Effort, beat: Beat) -> list[dict[str, Any]]:
    """Measure all contenders; return a row for each contender and kind of queries."""
    with ExitStack() as stack:
        folder = effort.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trichord-search-")))
        vectors = prepare_embeddings(folder, case)
        beat()
        built = _build_once(folder, vectors, effort.memory_gb)
        opened = _in_process("open", vectors)
        beat()
        index = Index.open(vectors / "index")
        (segment,) = index.segments
        asked = _draw_queries(case, segment.vectors_ND, effort.queries)
        beat()
        contenders = _faiss_indexes(case, effort, folder, segment.vectors_ND, asked)
        ours = {kind: tune(segment.searcher, halves[0], RECALL).settings for kind, halves in asked.items()}
        about = {
            "kind": segment.entry.kind,
            "bytes_per_vector": round(segment.searcher.bytes_per_vector(case.dim, "float16"), 1),
            "disk_bytes_per_vector": round(sum(f.bytes for f in segment.entry.files.values()) / case.rows),
            **built,
            **opened,
        }
        contenders[OURS] = SearchContender(segment.searcher, ours, about)
        beat()
        return [row for kind in asked for row in _rows(contenders, kind, asked[kind][1], effort.rounds, beat)]


def _build_once(folder: Path, vectors: Path, memory_gb: float) -> dict[str, Any]:
    """Build our index and return what that took, or what it took for the index that was kept."""
    noted, case = folder / "built.json", {"budget_mib": round(memory_gb * 10**9 / 2**20)}
    if noted.exists():
        kept: dict[str, Any] = json.loads(noted.read_text())
        if case.items() <= kept.items():
            return kept
    shutil.rmtree(vectors / "index", ignore_errors=True)
    built = _in_process("build", vectors, str(memory_gb)) | case
    write_whole(noted, json.dumps(built))
    return built


def _draw_queries(case: SearchCase, vectors_ND: NDArray[Any], queries: int) -> dict[str, tuple[Asked, Asked]]:
    """Draw the queries of both kinds in two halves, and find their exact neighbours."""
    embeddings = SyntheticEmbeddings(case)
    fresh_QD = embeddings.videos(queries, "asked")
    drawn = {VIDEOS: fresh_QD, CAPTIONS: embeddings.captions(embeddings.videos(queries, "told"), number=-1)}
    found = {}
    for kind, queries_QD in drawn.items():
        scores_Qk, _ = exact_neighbours(vectors_ND, queries_QD, NEIGHBOURS)
        asked = Asked(queries_QD, scores_Qk[:, -1])
        found[kind] = (Asked(*(each[::2] for each in asked)), Asked(*(each[1::2].copy() for each in asked)))
    return found


def _faiss_indexes(
    case: SearchCase,
    effort: Effort,
    folder: Path,
    vectors_ND: NDArray[Any],
    asked: Mapping[str, tuple[Asked, Asked]],
) -> dict[str, SearchContender]:
    """Build the indexes of FAISS from the same vectors."""
    started = time.perf_counter()
    flat = faiss.IndexFlatIP(case.dim)
    _fill(flat, vectors_ND)
    about = {"kind": "Flat", "bytes_per_vector": 4 * case.dim, "build_s": _since(started)}
    found = {FLAT: SearchContender(Flat(flat), dict.fromkeys(asked, SearchSettings()), about)}
    chosen = autofaiss_links(case.rows, case.dim, effort.memory_gb)
    for links in sorted({LINKS, chosen or LINKS}) if effort.with_hnsw else ():
        graph, build_s = _graph(folder / f"hnsw{links}", vectors_ND, links)
        searcher = Graph(None, graph)
        settings = {kind: tune(searcher, halves[0], RECALL).settings for kind, halves in asked.items()}
        bytes_of_one = round(Graph.bytes_per_vector(case.dim, "float32")) + 8 * (links - LINKS)
        taken = {"kind": f"HNSW{links}", "bytes_per_vector": bytes_of_one, "build_s": build_s}
        also = ", autofaiss's choice" if links == chosen else ""
        found[f"FAISS HNSW{links}{also}"] = SearchContender(searcher, settings, taken)
    return found


def autofaiss_links(count: int, dim: int, memory_gb: float) -> int | None:
    """Return the links per vector of the graph that autofaiss chooses; None where it chooses no graph."""
    if count < 1000:
        return None
    if count < 10_000:
        return 15
    links = math.floor((memory_gb * 2**30 / (4 * count) - dim) / 2)
    return min(links, 32) if links >= 8 else None


def _graph(path: Path, vectors_ND: NDArray[Any], links: int) -> tuple[Any, float]:
    """Build a graph on all threads, or load the one that was kept."""
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
    contenders: Mapping[str, SearchContender], kind: str, asked: Asked, rounds: int, beat: Beat
) -> list[dict[str, Any]]:
    """Search with all contenders in turn, on one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)

    def lap(name: str, queries_QD: NDArray[Any]) -> tuple[float, None]:
        each = contenders[name]
        return timed(lambda: each.searcher.search(queries_QD, NEIGHBOURS, each.settings[kind]))[0], None

    try:
        seconds = take_turns(list(contenders), [asked.queries_QD], rounds, lap, beat).seconds
        recalls = {name: recall(each.searcher, asked, each.settings[kind]) for name, each in contenders.items()}
    finally:
        faiss.omp_set_num_threads(threads)
    return [_row(name, each, kind, asked, seconds, recalls[name]) for name, each in contenders.items()]


def _row(
    name: str,
    contender: SearchContender,
    kind: str,
    asked: Asked,
    seconds: Mapping[str, Sequence[float]],
    recalled: float,
) -> dict[str, Any]:
    ratio = Ratio.of(seconds[name], seconds[FLAT]).median
    goal = (GOAL if kind == VIDEOS else 0.0) if name == OURS else None
    return {
        "queries": kind,
        "whose": name,
        "recall@10": round(recalled, 4),
        "queries_per_s": round(statistics.median(len(asked.queries_QD) / each for each in seconds[name]), 1),
        "times_flat": round(ratio, 1),
        "goal": goal or None,
        "met": None if goal is None else ratio >= goal and recalled >= RECALL,
        "settings": {what: value for what, value in contender.settings[kind].model_dump().items() if value},
        **contender.about,
    }


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 1)


def _in_process(what: str, folder: Path, *arguments: str) -> dict[str, Any]:
    environment = {"OMP_NUM_THREADS": str(faiss.omp_get_max_threads())}
    printed = run_alone(what, "benchmarks.search.run", what, str(folder), *arguments, environment=environment)
    found: dict[str, Any] = json.loads(printed[-1])
    return found


def _build(folder: Path, memory_gb: float) -> dict[str, Any]:
    before_mib, peak_mib, is_over = memory_mib("RssAnon"), [0.0], Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_EVERY_S):
            peak_mib[0] = max(peak_mib[0], memory_mib("RssAnon"))

    sampling = Thread(target=sample, daemon=True)
    sampling.start()
    started = time.perf_counter()
    build([folder], folder / "index", "video", Options(int(memory_gb * 10**9), RECALL))
    build_s = _since(started)
    is_over.set()
    sampling.join()
    return {
        "build_s": build_s,
        "build_mib": round(peak_mib[0] - before_mib),
        "build_mib_with_maps": round(memory_mib("VmHWM")),
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
    found = _build(Path(sys.argv[2]), float(sys.argv[3])) if sys.argv[1] == "build" else _open(Path(sys.argv[2]))
    print("\n" + json.dumps(found))
