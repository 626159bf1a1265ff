"""One side of a retrieval: rows of unit length, and the clip that each is of.

Legend: n rows of this rank, N those of all ranks, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows, sum_over_ranks

MISSING = -1
LONGEST_ERROR = 0.01  # of a length; rows in bfloat16 are off by less


@dataclass(frozen=True)
class Side:
    """This rank's rows, and the number of the clip that each is of, counted over all ranks.

    A clip may have several rows, and none. A row of MISSING is neither asked nor found, whatever it holds: a caption
    that a dense table has room for and a clip has not, or what pads a rank's last batch.
    """

    rows_nD: Tensor
    clips_n: Tensor

    def __post_init__(self) -> None:
        rows, clips = self.rows_nD, self.clips_n
        if rows.dim() != 2 or clips.shape != rows.shape[:1] or clips.device != rows.device:
            raise ValueError(
                f"expected rows and as many numbers of clips on one device, found {tuple(rows.shape)} on {rows.device} "
                f"and {tuple(clips.shape)} on {clips.device}"
            )

    def __len__(self) -> int:
        return len(self.rows_nD)

    def where(self, chosen_n: Tensor) -> Side:
        """Keep some rows, in the order that is asked for."""
        return Side(self.rows_nD[chosen_n], self.clips_n[chosen_n])

    def check(self, name: str) -> None:
        """Stop on all ranks together where a row is no unit vector: nothing is greater than NaN, so it would win."""
        length_n = torch.linalg.vector_norm(self.rows_nD, dim=1, dtype=torch.float64)
        is_bad_n = ~((length_n - 1).abs() <= LONGEST_ERROR) & (self.clips_n >= 0)
        bad, there = sum_over_ranks(torch.stack([is_bad_n.sum(), (self.clips_n >= 0).sum()])).tolist()
        if not there:
            raise UserError(f"retrieval: there are no rows of {name} on any rank, expected one at least.")
        if bad:
            raise UserError(
                f"retrieval: {bad:,} of {there:,} rows of {name} are not of length 1, so their products are no "
                f"cosines. Normalise them, give rows that are none the clip {MISSING}, and if some are not finite take "
                "an earlier checkpoint, for the network diverged."
            )

    def gathered(self) -> Side:
        """Give all ranks' rows but the missing ones, by the numbers of their clips."""
        there = self.where(self.clips_n >= 0)
        clips_N = gather_unequal_rows(there.clips_n)
        return Side(gather_unequal_rows(there.rows_nD), clips_N).where(clips_N.argsort(stable=True))
