"""The kinds of released files that are known, told apart by what their tensors are called."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from trichord.core.registry import load
from trichord.pretrain.backbones.registry import AUDIO_BACKBONES, BACKBONES
from trichord.pretrain.backbones.vtn.names import SIGN as _VTN
from trichord.pretrain.weights.naming import Family

_DINO = "backbone.blocks.0.attn.qkv.weight"
_RESNET = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

# Files whose weights fit several backbones; those of one backbone stand in its folder.
_GENERAL = (
    # Teachers of SVT and DINO, and SVT's release; names are those that networks have here.
    Family("SVT or DINO", _DINO, (), but_not=(_VTN,)),
    Family("trichord", "backbone.*", (), but_not=(_VTN, _DINO)),  # what `trichord export` writes
    # Their students, which stood inside DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
    # Of images by timm or DINO, or of video.
    Family("ViT", "blocks.0.attn.qkv.weight", (("head.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))),
    Family("ResNet of torchvision or timm", "layer1.0.conv1.weight", _RESNET),
)


@functools.cache
def families() -> tuple[Family, ...]:
    """Return all that are known."""
    specs = (*BACKBONES.values(), *AUDIO_BACKBONES.values())
    places = dict.fromkeys(spec.file_names for spec in specs if spec.file_names)
    return (*_GENERAL, *(family for place in places for family in load(place)))


def recognise(names: Iterable[str]) -> Family | None:
    """Return the family of a file by what its tensors are called."""
    present = set(names)
    return next((family for family in families() if family.is_that_of(present)), None)
