"""The known families of released files, identified by their tensor names."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from trichord.core.registry import load
from trichord.pretrain.backbones.registry import AUDIO_BACKBONES, BACKBONES
from trichord.pretrain.backbones.vtn.names import SIGN as _VTN
from trichord.pretrain.weights.naming import Family

_DINO = "backbone.blocks.0.attn.qkv.weight"
_RESNET = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

# Files whose weights fit several backbones; those of one backbone are defined in its package.
_GENERAL = (
    # Teachers of SVT and DINO, and SVT's release; they have the same names as in trichord.
    Family("SVT or DINO", _DINO, (), but_not=(_VTN,)),
    Family("trichord", "backbone.*", (), but_not=(_VTN, _DINO)),  # written by `trichord export`
    # Their students, saved from DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
    # Image models of timm or DINO, or video models.
    Family("ViT", "blocks.0.attn.qkv.weight", (("head.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))),
    Family("ResNet of torchvision or timm", "layer1.0.conv1.weight", _RESNET),
)


@functools.cache
def families() -> tuple[Family, ...]:
    """Return all known families."""
    specs = (*BACKBONES.values(), *AUDIO_BACKBONES.values())
    places = dict.fromkeys(spec.file_names for spec in specs if spec.file_names)
    return (*_GENERAL, *(family for place in places for family in load(place)))


def recognise(names: Iterable[str]) -> Family | None:
    """Return the family of a file by its tensor names, None if unknown."""
    present = set(names)
    return next((family for family in families() if family.is_that_of(present)), None)
