"""Search of an index by video, text, vector or one of its own rows, with results in the format of the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.core.errors import UserError
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.index import Hit, Index, RowPosition
from trichord.finetune.retrieval.media import read_sample
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.record import RawSample

_NEAREST = 6
_MOST = 1000


class SearchRequest(BaseModel):
    """Body of POST /api/search: one of text, vector and like, the number of hits, and filters on rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = Field(default=None, min_length=1, max_length=10_000)
    vector: list[float] | None = Field(default=None, fail_fast=True)
    like: str | None = None
    k: int = Field(default=10, ge=1, le=_MOST)
    where: dict[str, str] = {}

    @model_validator(mode="after")
    def _asks_one_thing(self) -> SearchRequest:
        if sum(each is not None for each in (self.text, self.vector, self.like)) != 1:
            raise ValueError("expected one of text, vector and like")
        return self


class Nearest:
    """An index, and the model whose vectors it holds, if available."""

    def __init__(self, index: Index, embedder: Embedder | None) -> None:
        self.index, self.embedder = index, embedder
        if embedder is not None:
            index.use(embedder)

    @classmethod
    def open(cls, folder: Path, embedders: Sequence[Embedder], device: torch.device) -> Nearest:
        """Open an index with the matching one of the models, or with its own model if that still exists."""
        print(f"loading {folder}", file=sys.stderr, flush=True)
        index = Index.open(folder)
        model, run = index.catalogue.model, Path(index.catalogue.run)
        fitting = next((each for each in embedders if each.hash == model), None)
        if fitting is None and run.exists():
            fitting = Embedder.load(run, device)
        if fitting is None:
            print(
                f"note: {folder} holds vectors of {run}, which does not exist: search takes only vectors and keys. "
                "Next: add its run to the arguments RUN",
                file=sys.stderr,
            )
        return cls(index, fitting)

    def to_video(self, raw: RawSample, limits: DecodeLimits) -> list[dict[str, Any]] | None:
        """Return the hits nearest to a video; None without the model."""
        if self.embedder is None:
            return None
        return [self.as_json(hit) for hit in self.index.nearest(self.embedder.embed_video(raw, limits), _NEAREST)[0]]

    def read(self, text: str) -> list[float]:
        """Return the vector of a text; raise UserError without the model."""
        if self.embedder is None:
            raise UserError("the model of this index is not loaded: texts cannot be embedded. Next: use vector or like")
        vector: list[float] = self.embedder.embed_texts([text])[0].tolist()
        return vector

    def answer(self, question: SearchRequest, vector: Sequence[float] | None) -> list[dict[str, Any]]:
        """Return the hits nearest to a vector, or to a row of the index; no torch is needed."""
        if vector is not None:
            query_1D = np.asarray(vector, dtype=np.float32)[None]
            hits = self.index.nearest(query_1D, question.k, question.where)[0]
        else:
            hits = self.index.search(like=question.like, k=question.k, where=question.where)
        return [self.as_json(hit) for hit in hits]

    def clip(self, segment: int, row: int) -> RawSample:
        """Read a row's sample; raise LookupError if there is no such row, SampleError if its shard is missing."""
        if not 0 <= segment < len(self.index.segments) or not 0 <= row < len(self.index.segments[segment].rows):
            raise LookupError(f"the index has no row {row} of segment {segment}")
        hit = self.index.hit(0.0, RowPosition(segment, row))
        return read_sample(hit.root, hit.shard, hit.key)

    def as_json(self, hit: Hit) -> dict[str, Any]:
        """Return a hit in the format of the page's answer."""
        return {
            "score": round(hit.score, 6),
            "key": hit.key,
            "shard": hit.shard,
            "caption": hit.caption,
            "labels": hit.label.split("\n") if hit.label else [],
            "start_s": hit.start_s,
            "end_s": hit.end_s,
            "clip": f"/api/hits/{hit.place.segment}/{hit.place.row}",
        }
