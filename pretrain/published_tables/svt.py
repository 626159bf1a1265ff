"""SVT and DINO, in the files that their training leaves, and what `trichord export` writes, which is of that form."""

from __future__ import annotations

from trichord.pretrain.published_tables import vtn
from trichord.pretrain.published_tables.family import Family

_SIGN = "backbone.blocks.0.attn.qkv.weight"

FAMILIES = (
    # Teachers of SVT and DINO, and SVT's release; names are those that networks have here.
    Family("SVT or DINO", _SIGN, (), but_not=(vtn.SIGN,)),
    Family("trichord", "backbone.*", (), but_not=(vtn.SIGN, _SIGN)),
    # Their students, which stood inside DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
)
