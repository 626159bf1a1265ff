"""What a rank keeps of the samples to cluster: a bank of their latest embeddings, and their labels of the last round.

A memory bank holds the embeddings of the last steps, so that clustering needs no pass over the data. Each rank keeps
its own. A saved bank has the rows in the order of the global batches, oldest first, as a single rank would have seen
them. The global batches are the same for any number of ranks, so any number of ranks can resume it.
A label table holds the labels of a clustering round by sample, on every rank. Samples are identified by a 64-bit hash
of their key. If several rows belong to one sample, the newest row's label is used.
Legend: R rows of this rank's ring, b of a push or keys of a batch, n filled rows of this rank, N distinct samples, D
features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trichord.core.seeds import derive_seed
from trichord.pretrain.clustering.rows import TensorRows
from trichord.pretrain.collectives import gather_rows, gather_unequal_rows, rank, world_size


class MemoryBank:
    """A ring buffer of `rows_per_rank` samples with an embedding for each modality of a sample; initially empty.

    `rows_per_step` is the number of rows this rank pushes in a step, in one push or several. The ring holds whole
    steps; otherwise a different number of ranks could not hold the same rows together.
    """

    def __init__(
        self,
        rows_per_rank: int,
        dims: Mapping[str, int],
        rows_per_step: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if rows_per_rank <= 0 or rows_per_rank % rows_per_step:
            raise ValueError(f"a bank of {rows_per_rank} rows is not a multiple of {rows_per_step} rows a step")
        self._size, self._step = rows_per_rank, rows_per_step
        self._embeddings = {
            name: torch.zeros(rows_per_rank, dim, dtype=torch.float16, device=device) for name, dim in dims.items()
        }
        self._present = {name: torch.zeros(rows_per_rank, dtype=torch.bool, device=device) for name in dims}
        self._keys_R = torch.zeros(rows_per_rank, dtype=torch.long, device=device)
        self._truths_R = torch.full_like(self._keys_R, -1)
        self._pushed = 0

    @property
    def count(self) -> int:
        """The number of samples this rank holds."""
        return min(self._pushed, self._size)

    @torch.no_grad()
    def push(
        self, embeddings: Mapping[str, Tensor], keys_b: Tensor, present: Mapping[str, Tensor], truths_b: Tensor
    ) -> None:
        """Store a batch in place of the oldest rows.

        `present` has a mask_b for each modality: a missing modality is never clustered, whatever its embedding.
        `truths_b` are ground-truth labels, -1 where there is none; they are used only for comparison.
        """
        if sorted(embeddings) != sorted(self._embeddings):
            raise ValueError(f"expected embeddings of {sorted(self._embeddings)}, found {sorted(embeddings)}")
        device = self._keys_R.device
        place_b = (self._pushed + torch.arange(len(keys_b), device=device)) % self._size
        self._keys_R[place_b] = keys_b.to(device)
        self._truths_R[place_b] = truths_b.to(device)
        for name, kept_RD in self._embeddings.items():
            embedding_bD = embeddings[name].detach().to(device, kept_RD.dtype)
            is_there_b = present[name].to(device)
            kept_RD[place_b] = torch.where(is_there_b[:, None], embedding_bD, 0)
            self._present[name][place_b] = is_there_b
        self._pushed += len(keys_b)

    def rows(self, modality: str) -> TensorRows:
        """Return the embeddings of the samples that have this modality, oldest first."""
        return TensorRows(self._embeddings[modality], self._places(modality))

    def keys(self, modality: str) -> Tensor:
        """Return the key hashes_n of the rows that `rows` returns."""
        return self._keys_R[self._places(modality)]

    def truths(self, modality: str) -> Tensor:
        """Return the ground-truth labels_n of the rows that `rows` returns."""
        return self._truths_R[self._places(modality)]

    def ages(self, modality: str) -> Tensor:
        """Return for each row of `rows` how many rows of all ranks are newer, so that rows can be ordered by age."""
        is_there_n = self._present[modality][self._oldest_first()]
        later_n = torch.arange(self.count - 1, -1, -1, device=is_there_n.device)
        steps_n, rest_n = later_n // self._step, later_n % self._step
        ages_n = (steps_n * world_size() + world_size() - 1 - rank()) * self._step + rest_n
        return ages_n[is_there_n]

    def state(self) -> dict[str, Tensor]:
        """Return the whole bank of all ranks, the same on each."""
        if self._pushed % self._step:
            raise ValueError("a bank can be saved only between steps, when every rank has pushed all of its rows")
        order_n = self._oldest_first()
        state = {"keys": self._gather(self._keys_R[order_n]), "truths": self._gather(self._truths_R[order_n])}
        for name, kept_RD in self._embeddings.items():
            state[f"embedding.{name}"] = self._gather(kept_RD[order_n])
            state[f"present.{name}"] = self._gather(self._present[name][order_n].to(torch.uint8)).bool()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load this rank's part of a saved bank; if it is larger than this bank, its newest rows."""
        expected = [
            "keys",
            "truths",
            *(f"{kind}.{name}" for kind in ("embedding", "present") for name in self._embeddings),
        ]
        if sorted(state) != sorted(expected):
            raise ValueError(f"expected a bank's {sorted(expected)}, found {sorted(state)}")
        batch = self._step * world_size()
        if len(state["keys"]) % batch:
            raise ValueError(f"the saved bank's {len(state['keys'])} rows are not a multiple of the batch size {batch}")
        self._pushed = 0
        mine = {name: self._part(rows) for name, rows in state.items()}
        count = min(len(mine["keys"]), self._size)
        if count:
            newest = {name: rows[-count:] for name, rows in mine.items()}
            embeddings = {name: newest[f"embedding.{name}"] for name in self._embeddings}
            present = {name: newest[f"present.{name}"] for name in self._embeddings}
            self.push(embeddings, newest["keys"], present, newest["truths"])

    def _oldest_first(self) -> Tensor:
        """Return the filled positions of the ring, oldest first."""
        first = self._pushed - self.count
        return (first + torch.arange(self.count, device=self._keys_R.device)) % self._size

    def _places(self, modality: str) -> Tensor:
        order_n = self._oldest_first()
        return order_n[self._present[modality][order_n]]

    def _gather(self, rows_n: Tensor) -> Tensor:
        """Gather all ranks' rows, each oldest first, into the order of the global batches."""
        steps = len(rows_n) // self._step
        gathered = gather_rows(rows_n)
        shape = gathered.shape[1:]
        return gathered.view(world_size(), steps, self._step, *shape).transpose(0, 1).reshape(-1, *shape)

    def _part(self, rows: Tensor) -> Tensor:
        """Return this rank's share of rows that are in the order of the global batches."""
        steps = len(rows) // (world_size() * self._step)
        return rows.view(steps, world_size(), self._step, *rows.shape[1:])[:, rank()].flatten(0, 1)


UNKNOWN = -1


def hash_keys(keys: Sequence[str]) -> Tensor:
    """Return an int64 hash for each key, the same on every machine."""
    return torch.tensor([derive_seed(key) - 2**63 for key in keys], dtype=torch.long)


class Labelled(NamedTuple):
    """This rank's rows of one clustering."""

    keys_n: Tensor
    ages_n: Tensor  # over all ranks; the lowest is the newest
    labels_n: Tensor


class LabelTable:
    """The labels of the newest round, the same on every rank; empty before the first round."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}  # keys_N, ascending, and labels_N, for each clustering

    @torch.no_grad()
    def replace(self, clusterings: Mapping[str, Labelled]) -> None:
        """Replace the previous round with the rows of all ranks; every rank calls it with the same names."""
        self._tables = {}
        for name, rows in clusterings.items():
            keys, ages, labels = (gather_unequal_rows(column) for column in _newest(*rows))
            keys_N, _, labels_N = _newest(keys, ages, labels)
            self._tables[name] = (keys_N, labels_N.int())

    def lookup(self, name: str, keys_b: Tensor) -> Tensor:
        """Return labels_b of this clustering, on the keys' device; -1 for a sample that had no row in the round."""
        if name not in self._tables or not len(self._tables[name][0]):
            return torch.full_like(keys_b, UNKNOWN)
        keys_N, labels_N = self._tables[name]
        query_b = keys_b.to(keys_N.device)
        place_b = torch.searchsorted(keys_N, query_b).clamp(max=len(keys_N) - 1)
        labels_b = torch.where(keys_N[place_b] == query_b, labels_N[place_b].long(), UNKNOWN)
        return labels_b.to(keys_b.device)

    def state(self) -> dict[str, Tensor]:
        """Return the table, which is the same on all ranks."""
        return {
            f"{column}.{name}": tensor
            for name, table in self._tables.items()
            for column, tensor in zip(("keys", "labels"), table, strict=True)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        names = [field.removeprefix("keys.") for field in state if field.startswith("keys.")]
        self._tables = {name: (state[f"keys.{name}"], state[f"labels.{name}"]) for name in names}


def _newest(keys: Tensor, ages: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the newest row of each key, in ascending order of keys."""
    by_age = ages.argsort(stable=True)
    order = by_age[keys[by_age].argsort(stable=True)]
    keys, ages, labels = keys[order], ages[order], labels[order]
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return keys[is_first], ages[is_first], labels[is_first]
