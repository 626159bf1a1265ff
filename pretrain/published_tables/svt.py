"""SVT and DINO, in the files that their training leaves; `trichord export` writes the first kind."""

from __future__ import annotations

from pretrain.published_tables import vtn
from pretrain.published_tables.family import Family

FAMILIES = (
    # Teachers of SVT and DINO, SVT's release, and what `trichord export` writes.
    Family(
        "SVT or DINO",
        "backbone.blocks.0.attn.qkv.weight",
        (("backbone.{rest}", "backbone.{rest}"), ("head.{rest}", "head.{rest}")),
        but_not=(vtn.SIGN,),
    ),
    # Their students, which stood inside DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
)
