"""A folder of embeddings: what its parts have in common, and a part for each shard; read without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.finetune.retrieval.spec import Embedding
from trichord.finetune.retrieval.table import Table, TornTable

FILE_NAME = "embedding.json"
TEXT_COLUMNS = ("key", "shard", "root", "caption", "label")


def part_path(folder: Path, place: int) -> Path:
    """Name the file of the shard with this number."""
    return folder / f"{place:05d}.safetensors"


def plan_of(embedding: Embedding) -> str:
    """Digest what decides a part, but for where things lie."""
    told = embedding.model_dump_json(exclude={"run", "root", "step"})
    return hashlib.sha256(told.encode()).hexdigest()


def finished(folder: Path, embedding: Embedding, place: int) -> Table | None:
    """Open the part of a shard if it is there, whole and of this very embedding."""
    try:
        table = Table.open(part_path(folder, place))
    except (FileNotFoundError, TornTable):
        return None
    is_ours = table.about.get("plan") == plan_of(embedding) and table.about.get("shard") == embedding.shards[place]
    return table if is_ours else None


def read_embedding(folder: Path) -> Embedding:
    """Read what the parts of a folder have in common."""
    path = folder / FILE_NAME
    try:
        return Embedding.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no embeddings: there is no {FILE_NAME}. Next: trichord embed RUN SHARDS --out {folder}"
        ) from error
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} cannot be read: {error}. Next: embed into another folder") from error
