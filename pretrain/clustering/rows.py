"""The rows to cluster: this rank's part of all ranks' embeddings, in memory or in a file, read in chunks.

Legend: N rows of this rank, n of a chunk, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trichord.core.errors import UserError

CHUNK_VALUES = 2**23  # values in a chunk: 32 MiB of float32


class Rows(Protocol):
    """This rank's rows. Every call of `chunks` yields them in the same order; a rank may have none."""

    count: int
    dim: int
    device: torch.device

    def chunks(self) -> Iterator[Tensor]:
        """Yield rows_nD in float32. A chunk is valid until the next one is requested."""
        ...


class TensorRows:
    """Rows in memory, of any precision; with `chosen_N`, the rows at these indices, in this order."""

    def __init__(self, rows_ND: Tensor, chosen_N: Tensor | None = None) -> None:
        self._rows_ND, self._chosen_N = rows_ND, chosen_N
        self.count, self.dim = len(rows_ND if chosen_N is None else chosen_N), rows_ND.shape[1]
        self.device = rows_ND.device

    def chunks(self) -> Iterator[Tensor]:
        step = _rows_in_a_chunk(self.dim)
        for first in range(0, self.count, step):
            part = slice(first, first + step)
            yield self._rows_ND[part if self._chosen_N is None else self._chosen_N[part]].float()


class FileRows:
    """Rows stored one after another in a raw file, float16 or float32 in the byte order of this machine.

    They are read rather than mapped: mapped pages count as the process's memory until the system reclaims them.
    """

    def __init__(
        self, path: Path, dim: int, dtype: torch.dtype = torch.float16, device: torch.device | str = "cpu"
    ) -> None:
        self._path, self._dtype = path, dtype
        self.dim, self.device = dim, torch.device(device)
        self.count, rest = divmod(path.stat().st_size, dim * dtype.itemsize)
        if rest:
            raise UserError(
                f"{path}: found {path.stat().st_size} bytes, expected a multiple of {dim * dtype.itemsize}, the size "
                f"of {dim} values of {dtype}. Set the dim and dtype the file was written with, or write it again."
            )

    def chunks(self) -> Iterator[Tensor]:
        step = min(_rows_in_a_chunk(self.dim), max(self.count, 1))
        stored_nD = torch.empty(step, self.dim, dtype=self._dtype)
        rows_nD = torch.empty(step, self.dim, device=self.device)
        with self._path.open("rb", buffering=0) as file:
            for first in range(0, self.count, step):
                here = min(step, self.count - first)
                self._fill(file, stored_nD[:here])
                yield rows_nD[:here].copy_(stored_nD[:here])

    def _fill(self, file: RawFile, stored_nD: Tensor) -> None:
        missing = memoryview(stored_nD.view(torch.uint8).numpy().data).cast("B")
        while missing:
            read = file.readinto(missing)
            if not read:
                raise UserError(f"{self._path} was truncated while it was read: {len(missing)} bytes are missing.")
            missing = missing[read:]


class RawFile(Protocol):
    """An unbuffered binary file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def _rows_in_a_chunk(dim: int) -> int:
    return max(1, CHUNK_VALUES // dim)
