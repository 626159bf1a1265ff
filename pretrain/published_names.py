"""What the tensors of released checkpoints are called there and here: one table for each family of files.

Here a network has a `backbone` and a `head`; `classifier` is what a released model learnt with labels. In the tables
{n} stands for the number of a block and {rest} for whatever follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

Table = tuple[tuple[str, str], ...]  # theirs, ours; the first that fits counts


@dataclass(frozen=True)
class Family:
    """A kind of file, known by a tensor that files of other kinds do not have."""

    name: str
    sign: str
    table: Table


def _hugging_face(prefix: str) -> Table:
    layer, block = f"{prefix}encoder.layer.{{n}}.", "backbone.blocks.{n}."
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.time_embeddings", "backbone.time_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.{{rest}}", "backbone.patch_embed.proj.{rest}"),
        (f"{layer}layernorm_before.{{rest}}", f"{block}norm1.{{rest}}"),
        (f"{layer}layernorm_after.{{rest}}", f"{block}norm2.{{rest}}"),
        (f"{layer}attention.attention.qkv.{{rest}}", f"{block}attn.qkv.{{rest}}"),
        (f"{layer}attention.output.dense.{{rest}}", f"{block}attn.proj.{{rest}}"),
        (f"{layer}temporal_layernorm.{{rest}}", f"{block}temporal_norm1.{{rest}}"),
        (f"{layer}temporal_attention.attention.qkv.{{rest}}", f"{block}temporal_attn.qkv.{{rest}}"),
        (f"{layer}temporal_attention.output.dense.{{rest}}", f"{block}temporal_attn.proj.{{rest}}"),
        (f"{layer}temporal_dense.{{rest}}", f"{block}temporal_fc.{{rest}}"),
        (f"{layer}intermediate.dense.{{rest}}", f"{block}mlp.fc1.{{rest}}"),
        (f"{layer}output.dense.{{rest}}", f"{block}mlp.fc2.{{rest}}"),
        (f"{prefix}layernorm.{{rest}}", "backbone.norm.{rest}"),
        ("classifier.{rest}", "classifier.{rest}"),
    )


HUGGING_FACE_TIMESFORMER = _hugging_face("timesformer.")

FAMILIES = (
    # Teachers of SVT and DINO, SVT's release, and what `trichord export` writes.
    Family(
        "SVT or DINO",
        "backbone.blocks.0.attn.qkv.weight",
        (("backbone.{rest}", "backbone.{rest}"), ("head.{rest}", "head.{rest}")),
    ),
    # Their students, which stood inside DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
    Family(
        "TimeSformer",
        "model.blocks.0.attn.qkv.weight",
        (("model.head.{rest}", "classifier.{rest}"), ("model.{rest}", "backbone.{rest}")),
    ),
    Family(
        "TimeSformer of Hugging Face",
        "timesformer.encoder.layer.0.attention.attention.qkv.weight",
        HUGGING_FACE_TIMESFORMER,
    ),
    Family(
        "TimeSformer of Hugging Face, no classifier",
        "encoder.layer.0.attention.attention.qkv.weight",
        _hugging_face(""),
    ),
    # Backbones by themselves: of images by timm or DINO, or of video.
    Family("ViT", "blocks.0.attn.qkv.weight", (("head.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))),
)


def recognise(names: Iterable[str]) -> Family | None:
    """Tell the family of a file by what its tensors are called."""
    present = set(names)
    return next((family for family in FAMILIES if family.sign in present), None)


def renamed(name: str, table: Table) -> str:
    """Give a tensor's name here; one that the table does not know keeps its own."""
    for theirs, ours in table:
        if found := _pattern(theirs).fullmatch(name):
            return ours.format_map(found.groupdict())
    return name


def reversed_table(table: Table) -> Table:
    """Give the table that leads back."""
    return tuple((ours, theirs) for theirs, ours in table)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts: Mapping[str, str] = {"{n}": r"(?P<n>\d+)", "{rest}": "(?P<rest>.+)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{\w+\})", template)))
