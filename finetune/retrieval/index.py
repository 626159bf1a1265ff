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
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from trichord.core.command import command_line
from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.core.reading import mistake, read_bytes, reason
from trichord.finetune.retrieval.segment import IndexSegment
from trichord.finetune.retrieval.spec import Catalogue

if TYPE_CHECKING:
    from trichord.finetune.retrieval.embedder import Embedder


CATALOGUE = "index.json"
_LENGTH_TOLERANCE = 0.01  # of a vector's length


class RowPosition(NamedTuple):
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
    place: RowPosition


class Index:
    """An open index; later changes on disk are visible only after it is opened again."""

    def __init__(self, folder: Path, catalogue: Catalogue, embedder: Embedder | None = None) -> None:
        self.folder, self.catalogue = folder, catalogue
        self._embedder: Embedder | None = None
        self.segments = [IndexSegment(folder, entry, catalogue) for entry in catalogue.segments]
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

    def __repr__(self) -> str:
        return (
            f"Index({str(self.folder)!r}: {counted(len(self), 'row')} of {self.catalogue.sense}, "
            f"{counted(self.catalogue.dim, 'feature')})"
        )

    def search(
        self,
        *,
        text: str | None = None,
        video: str | Path | None = None,
        audio: str | Path | None = None,
        like: str | None = None,
        vector: ArrayLike | None = None,
        k: int = 10,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Return the rows nearest to one query, the nearest first.

        Args:
            text: Search by a text.
            video: Search by a video file.
            audio: Search by the sound of an audio or video file.
            like: Search by the row of a key in the index, which is left out of the hits.
            vector: Search by a vector of the index's model; its length does not matter.
            k: The number of hits.
            where: Search only rows with these values, such as ``{"label": "jumping"}``.

        Example:
            >>> index = trichord.Index.open("vectors/val/index")
            >>> [(hit.key, round(hit.score, 2)) for hit in index.search(text="a red star grows", k=2)]
            [('clip-000017', 0.71), ('clip-000004', 0.64)]
        """
        queries = {"text": text, "video": video, "audio": audio, "like": like, "vector": vector}
        if sum(each is not None for each in queries.values()) != 1:
            raise UserError(f"search: expected one of {', '.join(queries)}")
        if like is not None:
            return self._like(like, k, where or {})
        if vector is not None:
            return self.nearest(_unit_row(vector), k, where)[0]
        embedder = self._opened()
        if text is not None:
            if not isinstance(text, str):
                raise UserError(f"search: expected text as a string, found {text!r}")
            query_1D = embedder.embed_texts([text])
        else:
            query_1D = (
                embedder.embed_video_file(Path(video))
                if video is not None
                else embedder.embed_audio_file(Path(str(audio)))
            )
        return self.nearest(query_1D, k, where)[0]

    def nearest(
        self, queries_QD: NDArray[np.float32], k: int = 10, where: Mapping[str, str] | None = None
    ) -> list[list[Hit]]:
        """Return the rows nearest to each query vector, of the same model and of length 1."""
        if not isinstance(k, int) or k < 1:
            raise UserError(f"k={k!r}: expected a whole number of at least 1")
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
            hits.append([self.hit(-minus, RowPosition(number, row)) for minus, number, row in ranked[:k]])
        return hits

    def hit(self, score: float, place: RowPosition) -> Hit:
        """Return the row at a place as a hit."""
        return Hit(score, *self.segments[place.segment].rows.row(place.row), place)

    def vector(self, place: RowPosition) -> NDArray[np.float32]:
        """Return the stored vector of a row."""
        return np.asarray(self.segments[place.segment].vectors_ND[place.row], dtype=np.float32)

    def places(self, key: str) -> list[RowPosition]:
        """Return the places of a key: one, or one for each window of its video."""
        return [
            RowPosition(number, row)
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
            self.use(Embedder.load(run))
        assert self._embedder is not None
        return self._embedder


def _unit_row(vector: ArrayLike) -> NDArray[np.float32]:
    """Return a vector, of NumPy or torch, as one row of length 1."""
    if hasattr(vector, "detach"):  # a tensor, on any device and of any type
        vector = vector.detach().float().cpu().numpy()
    found = np.asarray(vector)
    is_of_numbers = np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)
    if not is_of_numbers or found.ndim == 0 or found.size != found.shape[-1]:
        raise UserError(f"search: expected one vector of numbers, found {found.dtype} of the shape {found.shape}")
    row_1D = found.astype(np.float32).reshape(1, -1)
    length = float(np.linalg.norm(row_1D))
    if not 0 < length < float("inf"):
        raise UserError(f"search: expected a finite vector other than zero, found one of length {length}")
    return row_1D / np.float32(length)


def read_catalogue(folder: Path) -> Catalogue:
    """Read the catalogue of an index."""
    path = folder / CATALOGUE
    try:
        return Catalogue.model_validate_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is not an index: there is no {path}. Next: "
            f"{command_line('index', 'build', 'EMBEDDINGS', '--out', folder)}"
        ) from error
    except ValidationError as error:
        raise UserError(f"{path} cannot be read: {mistake(error)}. Next: build the index again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Next: build the index again") from error


def refuse_other_model(folder: Path, catalogue: Catalogue, model: str) -> None:
    """Raise UserError if vectors are of another model: results would be meaningless."""
    if model != catalogue.model:
        raise UserError(
            f"{folder} holds vectors of the model {catalogue.model[:12]} (from {catalogue.run}), but these are of "
            f"{model[:12]}: their products are meaningless. Next: use that model, or embed and build again"
        )
