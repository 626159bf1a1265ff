"""Synthetic embeddings for the search benchmark: videos in clusters, and captions in another cone.

The vectors of a modality lie in a narrow cone of its own (Liang et al. 2022, "Mind the Gap"): a caption here is the
vector of its video, shifted along one direction, with noise. Within a cluster the spread falls off from direction to
direction, as it does in the output of networks.
Legend: N vectors, n those of a block, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.seeds import generator
from trichord.finetune.retrieval.rows import FILE_NAME, part_path, plan_of
from trichord.finetune.retrieval.spec import Embedding
from trichord.finetune.retrieval.table import text_columns, whole, write_table

Rows = NDArray[np.float32]
_ROWS_OF_A_PART = 16_384


class SearchCase(BaseModel):
    """The number of vectors and their distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 1_000_000
    dim: int = 512
    rows_of_a_cluster: int = 250
    spread: float = 0.7  # of a cluster, in lengths of its centre
    gap: float = 0.6  # between the modalities
    noise: float = 0.5  # of captions around their videos
    seed: int = 0


class SyntheticEmbeddings:
    """Draws the vectors and captions of a case, block by block."""

    def __init__(self, case: SearchCase) -> None:
        self.case = case
        rng = generator(case.seed, "search world")
        clusters = max(1, case.rows // case.rows_of_a_cluster)
        self._centres_KD = unit(rng.standard_normal((clusters, case.dim), dtype=np.float32))
        rotation_DD, _ = np.linalg.qr(rng.standard_normal((case.dim, case.dim)))
        falling_D = 1 / np.sqrt(np.arange(1, case.dim + 1))
        self._spread_DD = (rotation_DD * (falling_D / np.linalg.norm(falling_D))[:, None]).astype(np.float32)
        (self._gap_D,) = unit(rng.standard_normal((1, case.dim), dtype=np.float32))

    def videos(self, count: int, name: str, number: int = 0) -> Rows:
        """Draw vectors around the clusters; the same name and number yield the same vectors."""
        rng = generator(self.case.seed, "search videos", name, number)
        centres_nD = self._centres_KD[rng.integers(len(self._centres_KD), size=count)]
        moved_nD = rng.standard_normal((count, self.case.dim), dtype=np.float32) @ self._spread_DD
        return unit(centres_nD + self.case.spread * moved_nD)

    def captions(self, videos_nD: Rows, number: int = 0) -> Rows:
        """Draw the vector of a caption for each video."""
        rng = generator(self.case.seed, "search captions", number)
        noise_nD = rng.standard_normal(videos_nD.shape, dtype=np.float32) @ self._spread_DD
        return unit(videos_nD + self.case.gap * self._gap_D + self.case.noise * noise_nD)

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """Draw all vectors of the case."""
        for number, first in enumerate(range(0, self.case.rows, _ROWS_OF_A_PART)):
            yield number, self.videos(min(_ROWS_OF_A_PART, self.case.rows - first), "held", number)


def unit(rows_ND: NDArray[np.float32]) -> Rows:
    """Return the rows scaled to length 1."""
    unit_ND: Rows = (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND


def prepare_embeddings(folder: Path, case: SearchCase) -> Path:
    """Write the vectors of a case below a folder, unless it has kept them; return their folder."""
    vectors, noted = folder / "vectors", folder / "case.json"
    if noted.exists():
        if SearchCase.model_validate_json(noted.read_bytes()) != case:
            raise UserError(f"{folder} was kept from another case: {noted.read_text()}. Choose another --keep.")
        return vectors
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds something else, or an unfinished run. Choose another --keep, or empty the folder."
        )
    write_embeddings(vectors, case)
    write_whole(noted, case.model_dump_json())
    return vectors


def write_embeddings(folder: Path, case: SearchCase) -> None:
    """Write the parts as `trichord embed` does."""
    embeddings = SyntheticEmbeddings(case)
    parts = -(-case.rows // _ROWS_OF_A_PART)
    shards = tuple(f"{number:05d}.tar" for number in range(parts))
    about: dict[str, object] = {"model": "0" * 64, "run": "none", "step": None, "dim": case.dim, "dtype": "float16"}
    about |= {"senses": ("video", "text"), "root": "none", "shards": shards, "digest": "", "look": "", "windows": None}
    embedding = Embedding.model_validate(about)
    folder.mkdir(parents=True)
    write_whole(folder / FILE_NAME, embedding.model_dump_json())
    for number, videos_nD in track(embeddings.blocks(), "parts", parts):
        count = len(videos_nD)
        there, spans_n = whole(np.ones(count, np.uint8)), np.zeros(count)
        columns = {"video": whole(videos_nD.astype(np.float16)), "has.video": there, "has.text": there}
        columns["text"] = whole(embeddings.captions(videos_nD, number).astype(np.float16))
        columns |= {"start_s": whole(spans_n), "end_s": whole(spans_n + 10)}
        keys = [f"{number:05d}{row:05d}" for row in range(count)]
        columns |= text_columns("key", keys) | text_columns("caption", [f"what {key} shows" for key in keys])
        columns |= text_columns("shard", [shards[number]] * count) | text_columns("root", ["none"] * count)
        columns |= text_columns("label", [f"class {row % 100}" for row in range(count)])
        write_table(
            part_path(folder, number),
            columns,
            {"plan": plan_of(embedding), "shard": shards[number], "rows": count, "bad": []},
        )
