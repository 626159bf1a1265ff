"""Tables of positions for another number of frames or another size, by the nearest entry as TimeSformer and SVT do.

Legend: D features, T frames and N places of the table, t frames, h rows and w columns of the clip, n = h x w.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional


def positions_in_time(table_1TD: Tensor, frames: int) -> Tensor:
    """Give 1tD."""
    if table_1TD.shape[1] == frames:
        return table_1TD
    resized_1Dt: Tensor = functional.interpolate(table_1TD.transpose(1, 2), size=frames, mode="nearest")
    return resized_1Dt.transpose(1, 2)


def positions_in_space(table_1ND: Tensor, rows: int, columns: int) -> Tensor:
    """Give 1hwD from a table of a square, row by row."""
    side = isqrt(table_1ND.shape[1])
    table_1hwD = table_1ND.reshape(1, side, side, -1)
    if (side, side) == (rows, columns):
        return table_1hwD
    table_1Dhw = table_1hwD.permute(0, 3, 1, 2)
    resized_1Dhw: Tensor = functional.interpolate(table_1Dhw, size=(rows, columns), mode="nearest")
    return resized_1Dhw.permute(0, 2, 3, 1)


def table_of_square(table_1ND: Tensor, places: int) -> Tensor | None:
    """Give a table of another square, 1nD; both begin with the class token. None where either is no square."""
    sides = [isqrt(number - 1) for number in (table_1ND.shape[1], places)]
    if [side**2 + 1 for side in sides] != [table_1ND.shape[1], places]:
        return None
    class_11D, square_1ND = torch.split(table_1ND, [1, table_1ND.shape[1] - 1], dim=1)
    return torch.cat((class_11D, positions_in_space(square_1ND, sides[1], sides[1]).flatten(1, 2)), dim=1)
