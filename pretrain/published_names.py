"""Tells released files apart by what their tensors are called; what is said of each family is a module of its own."""

from __future__ import annotations

from collections.abc import Iterable

from trichord.pretrain.published_tables import ast, clip, cnn, svt, timesformer, videomamba, vit, vivit, vtn
from trichord.pretrain.published_tables.family import Family as Family

FAMILIES: tuple[Family, ...] = (
    *ast.FAMILIES,
    *clip.FAMILIES,
    *cnn.FAMILIES,
    *svt.FAMILIES,
    *timesformer.FAMILIES,
    *videomamba.FAMILIES,
    *vit.FAMILIES,
    *vivit.FAMILIES,
    *vtn.FAMILIES,
)


def recognise(names: Iterable[str]) -> Family | None:
    """Tell the family of a file by what its tensors are called."""
    present = set(names)
    return next((family for family in FAMILIES if family.is_that_of(present)), None)
