"""An index of vectors on disk: immutable segments, and a catalogue that names them and is written last.

Adding writes a segment, removing writes a list of rows, merging writes one segment that replaces all. The index is
unchanged until the catalogue is replaced, so incomplete files are never read.
Legend: Q queries, D features, k neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.finetune.retrieval.segment import Segment
from trichord.finetune.retrieval.spec import Catalogue

if TYPE_CHECKING:
    from trichord.finetune.retrieval.embedder import Embedder

CATALOGUE = "index.json"
_LENGTH_TOLERANCE = 0.01  # of a vector's length


class Place(NamedTuple):
    """Position of a row in an index."""

    segment: int
    row: int


class Hit(NamedTuple):
    """A search result with its score."""

    score: float
    key: str
    shard: str
    root: str
    caption: str
    label: str
    start_s: float
    end_s: float
    place: Place


class Index:
    """An open index; later changes on disk are visible only after it is opened again."""

    def __init__(self, folder: Path, catalogue: Catalogue, embedder: Embedder | None = None) -> None:
        self.folder, self.catalogue = folder, catalogue
        self._embedder: Embedder | None = None
        self.segments = [Segment(folder, entry, catalogue) for entry in catalogue.segments]
        if embedder is not None:
            self.use(embedder)

    @classmethod
    def open(cls, folder: str | Path, embedder: Embedder | None = None) -> Index:
        """Open an index by memory mapping."""
        return cls(Path(folder), read_catalogue(Path(folder)), embedder)

    def __len__(self) -> int:
        return self.catalogue.count

    def use(self, embedder: Embedder) -> None:
        """Embed queries with this model, which must be the one whose vectors the index holds."""
        refuse_other_model(self.folder, self.catalogue, embedder.hash)
        self._embedder = embedder

    def search(
        self,
        *,
        text: str | None = None,
        video: str | Path | None = None,
        audio: str | Path | None = None,
        like: str | None = None,
        k: int = 10,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Return the rows nearest to a text, a video file, the sound of a file, or the row of a key."""
        if sum(each is not None for each in (text, video, audio, like)) != 1:
            raise UserError("search: expected one of text, video, audio and like")
        if like is not None:
            return self._like(like, k, where or {})
        embedder = self._opened()
        if text is not None:
            query_1D = embedder.read([text])
        else:
            query_1D = embedder.video_file(Path(video)) if video is not None else embedder.audio_file(Path(str(audio)))
        return self.nearest(query_1D, k, where)[0]

    def nearest(
        self, queries_QD: NDArray[np.float32], k: int = 10, where: Mapping[str, str] | None = None
    ) -> list[list[Hit]]:
        """Return the rows nearest to each query vector, of the same model and of length 1."""
        if k < 1:
            raise UserError(f"k={k}: expected 1 or more")
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.catalogue.dim:
            raise UserError(f"queries have the shape {queries_QD.shape}, expected rows of {self.catalogue.dim}")
        lengths_Q = np.linalg.norm(queries_QD, axis=1)
        if not (np.abs(lengths_Q - 1) <= _LENGTH_TOLERANCE).all():
            raise UserError("queries are not of length 1, so their products are not cosines. Next: normalise them")
        found = [segment.search(queries_QD, k, where or {}) for segment in self.segments]
        hits: list[list[Hit]] = []
        for query in range(len(queries_QD)):
            ranked = sorted(
                (-float(score), number, int(row))
                for number, (scores_Qk, rows_Qk) in enumerate(found)
                for score, row in zip(scores_Qk[query], rows_Qk[query], strict=True)
                if row >= 0
            )
            hits.append([self.hit(-minus, Place(number, row)) for minus, number, row in ranked[:k]])
        return hits

    def hit(self, score: float, place: Place) -> Hit:
        """Return the row at a place as a hit."""
        return Hit(score, *self.segments[place.segment].rows.row(place.row), place)

    def vector(self, place: Place) -> NDArray[np.float32]:
        """Return the stored vector of a row."""
        return np.asarray(self.segments[place.segment].vectors_ND[place.row], dtype=np.float32)

    def places(self, key: str) -> list[Place]:
        """Return the places of a key: one, or one for each window of its video."""
        return [
            Place(number, row)
            for number, segment in enumerate(self.segments)
            for row in segment.alive(segment.rows.of_key(key))
        ]

    def _like(self, key: str, k: int, where: Mapping[str, str]) -> list[Hit]:
        """Return the rows nearest to the mean of a key's rows, without these rows."""
        places = self.places(key)
        if not places:
            raise UserError(f"{self.folder} holds no {key!r}. Next: search with --text, and use a key from the results")
        mean_D = np.stack([self.vector(place) for place in places]).mean(axis=0)
        query_1D = (mean_D / np.linalg.norm(mean_D))[None]
        return [hit for hit in self.nearest(query_1D, k + len(places), where)[0] if hit.key != key][:k]

    def _opened(self) -> Embedder:
        if self._embedder is None:
            from trichord.finetune.retrieval.embedder import Embedder

            run = Path(self.catalogue.run)
            if not run.exists():
                raise UserError(f"the model of {self.folder} is not at {run} any more. Next: give --weights")
            self.use(Embedder.open(run))
        assert self._embedder is not None
        return self._embedder


def read_catalogue(folder: Path) -> Catalogue:
    """Read the catalogue of an index."""
    path = folder / CATALOGUE
    try:
        return Catalogue.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is not an index: there is no {path}. Next: trichord index build EMBEDDINGS --out {folder}"
        ) from error
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} cannot be read: {error}. Next: build the index again") from error


def refuse_other_model(folder: Path, catalogue: Catalogue, model: str) -> None:
    """Raise UserError if vectors are of another model: results would be meaningless."""
    if model != catalogue.model:
        raise UserError(
            f"{folder} holds vectors of the model {catalogue.model[:12]} (from {catalogue.run}), but these are of "
            f"{model[:12]}: their products are meaningless. Next: use that model, or embed and build again"
        )
