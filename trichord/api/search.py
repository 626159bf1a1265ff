"""Embeddings of shard sets as files, and indexes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trichord.api import checks
from trichord.core.errors import UserError
from trichord.finetune.retrieval import changing
from trichord.finetune.retrieval import embed as embedding
from trichord.finetune.retrieval.building import Options
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.index import Index
from trichord.finetune.retrieval.spec import INDEX_KINDS, DType, EmbeddedModality, Windows
from trichord.shards.reading.root import allow_typed


def embed(
    source: str | Path,
    shards: str | Path,
    out: str | Path,
    *,
    dtype: DType = "float16",
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    batch_size: int = 16,
    workers: int = 0,
    part: tuple[int, int] = (1, 1),
    max_bad_fraction: float = 0.05,
) -> Path:
    """Embed the videos, captions and sounds of a shard set into files; a repeated call continues.

    Args:
        source: A run of video and text, or a file of CLIP.
        shards: Folder or address of shards with their manifest.
        out: Folder for the vectors, one file for each shard.
        dtype: Data type of the vectors.
        window_seconds: Embed windows of this length, each as a row (default: whole videos).
        stride_seconds: Distance between windows (default: no overlap).
        batch_size: Clips per forward pass.
        workers: Processes that decode (0: this one); a script must then start behind ``if __name__ == "__main__"``.
        part: ``(number, total)``: embed every ``total``-th shard; other jobs embed the rest.
        max_bad_fraction: Stop above this share of clips that cannot be used.

    Returns:
        The folder of the vectors, for `build_index`.

    Example:
        >>> trichord.embed("runs/video_text", "shards/val", "vectors/val")
        PosixPath('vectors/val')
    """
    checks.one_of(get_args(DType), dtype=dtype)
    checks.above_zero(window_seconds=window_seconds, stride_seconds=stride_seconds)
    checks.at_least(1, batch_size=batch_size)
    checks.at_least(0, workers=workers)
    checks.shares(max_bad_fraction=max_bad_fraction)
    number, total = part if isinstance(part, tuple) and len(part) == 2 else (0, 0)
    if not 1 <= number <= total:
        raise UserError(f"part={part!r}: expected (number, total) with numbers from 1 to total, such as (3, 16)")
    if stride_seconds is not None and window_seconds is None:
        raise UserError(f"stride_seconds={stride_seconds}: it is the distance between windows, give window_seconds too")
    windows = None
    if window_seconds is not None:
        windows = Windows(seconds=window_seconds, stride_s=stride_seconds or window_seconds)
    allow_typed([shards])
    order = embedding.EmbedOptions(
        root=str(shards),
        out=Path(out),
        dtype=dtype,
        windows=windows,
        part=part,
        batch_size=batch_size,
        workers=workers,
        max_bad_fraction=max_bad_fraction,
    )
    embedding.embed(Embedder.load(Path(source)), Path(source), order)
    return Path(out)


def build_index(
    embeddings: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    of: EmbeddedModality = "video",
    kind: str | None = None,
    recall: float = 0.97,
    memory_bytes: int = 4 << 30,
) -> Index:
    """Build a FAISS index of embeddings, with search settings tuned for a recall that is measured.

    Args:
        embeddings: Folders that `embed` wrote.
        out: Folder for the index.
        of: The modality whose vectors are searched.
        kind: ``"flat"``, ``"hnsw"``, ``"ivf_flat"``, ``"ivf_sq8"`` or ``"ivf_pq"`` (default: by the number of vectors
            and the memory).
        recall: The recall@10 to tune for.
        memory_bytes: The memory that building may take.

    Returns:
        The open index; `Index.open` opens it later.

    Example:
        >>> index = trichord.build_index("vectors/val", "vectors/val/index")
        >>> index.search(text="a red star grows", k=3)[0].key
        'clip-000017'
    """
    folders = [embeddings] if isinstance(embeddings, str | Path) else list(embeddings)
    checks.not_empty(embeddings=folders)
    checks.one_of(get_args(EmbeddedModality), modality=of)
    checks.one_of(INDEX_KINDS, kind=kind)
    checks.shares(recall=recall)
    checks.above_zero(memory_bytes=memory_bytes)
    options = Options(memory_bytes=memory_bytes, recall=recall, kind=kind)
    changing.build([Path(folder) for folder in folders], Path(out), of, options)
    return Index.open(Path(out))
