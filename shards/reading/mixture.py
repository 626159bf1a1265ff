"""Which of several sources a lane's n-th slot takes: a fixed pattern whose shares are the weights, everywhere.

The pattern is the golden-ratio (Kronecker) sequence read against the cumulative weights: over any stretch of one lane
the shares are within a few slots of the weights, and lanes start at places spread so evenly that a batch across lanes
has them too. Being periodic, it can be counted up to any slot without walking there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trichord.core.errors import UserError

PERIOD = 75025  # neighbouring Fibonacci numbers: multiples of the one, modulo the other, fill the period evenly
_STEP = 46368


class Mixture:
    """The pattern for given weights and lanes."""

    def __init__(self, weights: Sequence[float], lanes: int) -> None:
        shares = np.asarray(weights, dtype=np.float64)
        if len(shares) == 0 or not np.all(np.isfinite(shares)) or np.any(shares <= 0):
            raise UserError(f"weights are {list(weights)}: there must be at least one, and all above 0")
        shares = shares / shares.sum()
        if np.any(shares < 2 / PERIOD):
            raise UserError(
                f"weights {list(weights)} give source {int(shares.argmin())} a share of {shares.min():.2g}; "
                f"less than {2 / PERIOD:.2g} cannot be kept to. Leave the source out or raise its weight."
            )
        places = (np.arange(PERIOD, dtype=np.int64) * _STEP) % PERIOD
        edges = np.round(np.cumsum(shares)[:-1] * PERIOD)
        self.pattern = np.searchsorted(edges, places, side="right").astype(np.int32)
        taken = np.eye(len(shares), dtype=np.int32)[self.pattern]
        self._taken_before = np.concatenate([np.zeros((1, len(shares)), np.int64), np.cumsum(taken, axis=0)])
        # Lane l begins where the sequence stands at l / lanes, so that at each slot the lanes lie evenly on the circle.
        inverse = pow(_STEP, -1, PERIOD)
        self._phases = [(lane * PERIOD // lanes) * inverse % PERIOD for lane in range(lanes)]

    def source(self, lane: int, slot: int) -> int:
        """Give the source that this slot of the lane takes."""
        return int(self.pattern[(self._phases[lane] + slot) % PERIOD])

    def taken_before(self, lane: int, slot: int, source: int) -> int:
        """Count the lane's earlier slots that took this source."""
        phase = self._phases[lane]
        return self._count(phase + slot, source) - self._count(phase, source)

    def _count(self, place: int, source: int) -> int:
        periods, rest = divmod(place, PERIOD)
        return periods * int(self._taken_before[PERIOD, source]) + int(self._taken_before[rest, source])
