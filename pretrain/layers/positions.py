"""Tables of positions for another number of frames or another size: in time by the nearest entry, as TimeSformer and
SVT do, or linear, as VideoMamba does; in space by the nearest as well, or bicubic, as CLIP does.

Legend: D features, T frames and N places of the table, t frames, h rows and w columns of the clip, n = h x w.
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Between = Literal["nearest", "bicubic"]  # how entries are made that lie between those of the table


def positions_in_time(table_1TD: Tensor, frames: int, between: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """Give 1tD."""
    if table_1TD.shape[1] == frames:
        return table_1TD
    resized_1Dt: Tensor = functional.interpolate(table_1TD.transpose(1, 2), size=frames, mode=between)
    return resized_1Dt.transpose(1, 2)


def positions_in_space(table_1ND: Tensor, rows: int, columns: int, between: Between = "nearest") -> Tensor:
    """Give 1hwD from a table of a square, row by row."""
    side = isqrt(table_1ND.shape[1])
    table_1hwD = table_1ND.reshape(1, side, side, -1)
    if (side, side) == (rows, columns):
        return table_1hwD
    table_1Dhw = table_1hwD.permute(0, 3, 1, 2)
    resized_1Dhw: Tensor = functional.interpolate(table_1Dhw, size=(rows, columns), mode=between)
    return resized_1Dhw.permute(0, 2, 3, 1)


def table_of_square(table_1ND: Tensor, places: int, between: Between = "nearest") -> Tensor | None:
    """Give a table of another square, 1nD; both begin with the class token. None where either is no square."""
    sides = [isqrt(number - 1) for number in (table_1ND.shape[1], places)]
    if [side**2 + 1 for side in sides] != [table_1ND.shape[1], places]:
        return None
    class_11D, square_1ND = torch.split(table_1ND, [1, table_1ND.shape[1] - 1], dim=1)
    resized_1hwD = positions_in_space(square_1ND, sides[1], sides[1], between)
    return torch.cat((class_11D, resized_1hwD.flatten(1, 2)), dim=1)


def positions_between(table_1TND: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """Give 1thwD from a square table of each frame, on straight lines between its entries."""
    side = isqrt(table_1TND.shape[2])
    table_1ThwD = table_1TND.reshape(1, -1, side, side, table_1TND.shape[3])
    if table_1ThwD.shape[1:4] == (frames, rows, columns):
        return table_1ThwD
    table_1DThw = table_1ThwD.permute(0, 4, 1, 2, 3)
    resized_1Dthw: Tensor = functional.interpolate(table_1DThw, size=(frames, rows, columns), mode="trilinear")
    return resized_1Dthw.permute(0, 2, 3, 4, 1)
