"""Bootstrap intervals: the middle 95 % of a figure over sets of as many clips, drawn with replacement (Efron 1979).

A drawn set is stored as how often each clip occurs in it, so that figures are computed for many sets at once.
Legend: N clips, R drawn sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from trichord.core.seeds import generator

Weights = NDArray[np.int64]  # R sets, N clips: how often each clip occurs in each set
Figures = Callable[[Weights], Mapping[str, NDArray[np.float64]]]  # by name: R values, or R rows of values
DRAWS = 1000
_AT_ONCE = 50


def once(clips: int) -> Weights:
    """Return the original set: each clip once."""
    return np.ones((1, clips), dtype=np.int64)


def intervals(figures: Figures, clips: int, seed: int, draws: int = DRAWS) -> dict[str, NDArray[np.float64]]:
    """Return the lower and upper end of each figure's interval, stacked; NaN where no drawn set has the figure."""
    rng = generator(seed, "bootstrap")
    found: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, draws, _AT_ONCE):
        weights_RN = rng.multinomial(clips, np.full(clips, 1 / clips), size=min(_AT_ONCE, draws - start))
        for name, values in figures(weights_RN).items():
            found.setdefault(name, []).append(values)
    return {name: _middle(np.concatenate(values)) for name, values in found.items()}


def _middle(values_RX: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two percentiles of the values that are not NaN, column by column."""
    columns = values_RX.reshape(len(values_RX), -1).T
    known = [column[~np.isnan(column)] for column in columns]
    ends = [np.percentile(each, (2.5, 97.5)) if len(each) else np.full(2, np.nan) for each in known]
    return np.array(ends).T.reshape(2, *values_RX.shape[1:])
