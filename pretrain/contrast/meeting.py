"""What ranks agree on before they compare rows: who brings how many pairs, and how unlike the most unlike pair is.

Legend: b samples of this rank, p its present ones, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trichord.pretrain.collectives import gather_rows, world_size
from trichord.pretrain.contrast.tiles import dot_rows


class Meeting(NamedTuple):
    """This rank's present pairs, and what all ranks know."""

    a_pD: Tensor
    b_pD: Tensor
    pairs: tuple[int, ...]  # that each rank brings
    lowest_cosine: float  # of any present pair, on any rank
    scale: float


def meet(a_bD: Tensor, b_bD: Tensor, scale: Tensor, present_b: Tensor | None) -> Meeting:
    """Leave absent pairs out, whatever their rows hold, and tell the other ranks of the present ones."""
    if a_bD.shape != b_bD.shape or a_bD.dim() != 2 or scale.numel() != 1:
        raise ValueError(
            f"expected two tensors of as many rows and one number as scale, found {tuple(a_bD.shape)}, "
            f"{tuple(b_bD.shape)} and {tuple(scale.shape)}"
        )
    exact = torch.promote_types(a_bD.dtype, torch.float32)
    a_pD, b_pD = a_bD.to(exact), b_bD.to(exact)
    if present_b is not None and not bool(present_b.all()):
        present_p = present_b.nonzero().squeeze(1)
        a_pD, b_pD = a_pD[present_p], b_pD[present_p]
    with torch.no_grad():
        cosine_p = dot_rows(a_pD, b_pD)
        lowest = cosine_p.min() if len(cosine_p) else cosine_p.new_ones(())
        told_13 = torch.stack([lowest.new_tensor(len(a_pD)), lowest, scale.detach().reshape(()).to(lowest)])[None]
        told = gather_rows(told_13.double()).tolist()
    # One rank knows its own number from the shape, which a rehearsal without values has as well.
    pairs = (len(a_pD),) if world_size() == 1 else tuple(round(each[0]) for each in told)
    return Meeting(a_pD, b_pD, pairs, min(each[1] for each in told), told[0][2])
