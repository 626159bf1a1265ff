"""An index of vectors on the disk: segments that never change, and a catalogue that names them and is written last.

Adding writes a segment, removing a list of rows, merging one segment out of all: until the catalogue is replaced the
index is as it was, so nothing half-written is ever read. Legend: Q queries, D features, k neighbours.
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
_LONGEST_ERROR = 0.01  # of a vector's length


class Place(NamedTuple):
    """Where a row lies."""

    segment: int
    row: int


class Hit(NamedTuple):
    """What was found, and how near it is."""

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
    """An index that was opened; what is changed on the disk meanwhile is seen when it is opened anew."""

    def __init__(self, folder: Path, catalogue: Catalogue, embedder: Embedder | None = None) -> None:
        self.folder, self.catalogue = folder, catalogue
        self._embedder: Embedder | None = None
        self.segments = [Segment(folder, entry, catalogue) for entry in catalogue.segments]
        if embedder is not None:
            self.use(embedder)

    @classmethod
    def open(cls, folder: str | Path, embedder: Embedder | None = None) -> Index:
        """Map an index."""
        return cls(Path(folder), read_catalogue(Path(folder)), embedder)

    def __len__(self) -> int:
        return self.catalogue.count

    def use(self, embedder: Embedder) -> None:
        """Ask by this model, which must be the one whose vectors are held."""
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
        """Find what is nearest to a text, a video file, a file's sound, or a row of the index, by its key."""
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
        """Find what is nearest to vectors of the same model, of length 1."""
        if k < 1:
            raise UserError(f"k={k}: expected 1 or more")
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.catalogue.dim:
            raise UserError(f"queries have the shape {queries_QD.shape}, expected rows of {self.catalogue.dim}")
        lengths_Q = np.linalg.norm(queries_QD, axis=1)
        if not (np.abs(lengths_Q - 1) <= _LONGEST_ERROR).all():
            raise UserError("queries are not of length 1, so their products are no cosines: normalise them")
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
        """Say what lies at a place."""
        return Hit(score, *self.segments[place.segment].rows.row(place.row), place)

    def vector(self, place: Place) -> NDArray[np.float32]:
        """Give the vector that is held of a row."""
        return np.asarray(self.segments[place.segment].vectors_ND[place.row], dtype=np.float32)

    def places(self, key: str) -> list[Place]:
        """Find the rows of a key: one, or one for each window of its video."""
        return [
            Place(number, row)
            for number, segment in enumerate(self.segments)
            for row in segment.alive(segment.rows.of_key(key))
        ]

    def _like(self, key: str, k: int, where: Mapping[str, str]) -> list[Hit]:
        """Find what is nearest to a key's rows together, and is none of them."""
        places = self.places(key)
        if not places:
            raise UserError(
                f"{self.folder} holds no {key!r}. Next: search for it with --text, and take a key from there"
            )
        mean_D = np.stack([self.vector(place) for place in places]).mean(axis=0)
        query_1D = (mean_D / np.linalg.norm(mean_D))[None]
        return [hit for hit in self.nearest(query_1D, k + len(places), where)[0] if hit.key != key][:k]

    def _opened(self) -> Embedder:
        if self._embedder is None:
            from trichord.finetune.retrieval.embedder import Embedder

            run = Path(self.catalogue.run)
            if not run.exists():
                raise UserError(f"the model of {self.folder} was at {run} and is not there. Next: say where, --weights")
            self.use(Embedder.open(run))
        assert self._embedder is not None
        return self._embedder


def read_catalogue(folder: Path) -> Catalogue:
    """Read what an index is."""
    path = folder / CATALOGUE
    try:
        return Catalogue.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is no index: there is no {path}. Next: trichord index build EMBEDDINGS --out {folder}"
        ) from error
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} cannot be read: {error}. Next: build the index again") from error


def refuse_other_model(folder: Path, catalogue: Catalogue, model: str) -> None:
    """Stop where vectors are of another model: they would find anything."""
    if model != catalogue.model:
        raise UserError(
            f"{folder} holds vectors of the model {catalogue.model[:12]} (it was at {catalogue.run}), and these are of "
            f"{model[:12]}: their products mean nothing. Next: ask by that model, or embed and build anew"
        )
