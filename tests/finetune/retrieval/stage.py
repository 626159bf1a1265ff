"""Random embeddings for tests: parts in the format of `trichord embed`."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trichord.core.files import write_whole
from trichord.finetune.retrieval.rows import FILE_NAME, part_path, plan_of
from trichord.finetune.retrieval.spec import DType, Embedding
from trichord.finetune.retrieval.table import TableColumn, text_columns, whole, write_table

MODEL = "a" * 64
LABELS = ("red", "blue", "red\nblue", "")


def unit(rows_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows scaled to length 1."""
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, dim: int, seed: int, clusters: int = 20) -> NDArray[np.float32]:
    """Draw unit rows around random centres."""
    rng = np.random.default_rng(seed)
    centres_KD = np.random.default_rng(99).standard_normal((clusters, dim))
    return unit(centres_KD[rng.integers(clusters, size=count)] + 0.6 * rng.standard_normal((count, dim)))


def write_embedding(
    folder: Path,
    shards: Sequence[Sequence[str]],
    *,
    dim: int = 16,
    seed: int = 0,
    dtype: DType = "float16",
    model: str = MODEL,
    windows: int = 1,
    known: Mapping[tuple[str, float], NDArray[np.float32]] | None = None,
) -> dict[tuple[str, float], NDArray[np.float32]]:
    """Write keys as parts, one for each list, with windows of a second; return the vectors as they are stored.

    Vectors are drawn, or given together with the windows that exist.
    """
    names = tuple(f"{number:05d}.tar" for number in range(len(shards)))
    about = {"version": 1, "model": model, "run": "runs/none", "step": 1, "dim": dim, "dtype": dtype}
    about |= {
        "senses": ("video", "text"),
        "root": str(folder),
        "shards": names,
        "digest": "d",
        "look": "",
        "windows": None,
    }
    embedding = Embedding.model_validate(about)
    folder.mkdir(parents=True)
    write_whole(folder / FILE_NAME, embedding.model_dump_json())
    held = {}
    for place, keys in enumerate(shards):
        if known is None:
            rows = [(key, float(window)) for key in keys for window in range(windows)]
            video_ND = clustered(len(rows), dim, 1000 * seed + place).astype(dtype)
        else:
            rows = [row for key in keys for row in known if row[0] == key]
            video_ND = np.array([known[row] for row in rows], dtype).reshape(-1, dim)
        held |= {row: vector.astype(np.float32) for row, vector in zip(rows, video_ND, strict=True)}
        noise_ND = np.random.default_rng(place).standard_normal(video_ND.shape)
        write_table(
            part_path(folder, place),
            _columns(rows, names[place], str(folder), video_ND, unit(video_ND + 0.3 * noise_ND).astype(dtype)),
            {"plan": plan_of(embedding), "shard": names[place], "rows": len(rows), "bad": []},
        )
    return held


@contextmanager
def small_disk(bytes_of_a_file: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def texts_of(key: str) -> Mapping[str, str]:
    """Return the text of the rows of a key."""
    number = sum(key.encode())
    return {"caption": f"thing {key} ünder", "label": LABELS[number % len(LABELS)]}


def _columns(
    rows: Sequence[tuple[str, float]], shard: str, root: str, video_ND: NDArray[Any], text_ND: NDArray[Any]
) -> dict[str, TableColumn]:
    starts = np.array([start_s for _, start_s in rows])
    there = whole(np.ones(len(rows), np.uint8))
    columns = {"video": whole(video_ND), "text": whole(text_ND), "has.video": there, "has.text": there}
    columns |= {"start_s": whole(starts), "end_s": whole(starts + 1)}
    columns |= text_columns("key", [key for key, _ in rows])
    columns |= text_columns("shard", [shard] * len(rows)) | text_columns("root", [root] * len(rows))
    for name in ("caption", "label"):
        columns |= text_columns(name, [texts_of(key)[name] for key, _ in rows])
    return columns
