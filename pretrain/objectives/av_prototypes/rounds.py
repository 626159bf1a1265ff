"""Rounds of clustering: embeddings are clustered again every `every_steps` steps, which yields prototypes and labels.

A subject is what is clustered: a modality, or both modalities' embeddings as one vector. Each has several clusterings.
A sample's label is looked up by its key in the latest round; a sample that was not part of it gets the nearest cluster.
Legend: n rows of this rank, b samples of a batch, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trichord.core.seeds import derive_seed
from trichord.pretrain.clustering.health import concentration, health
from trichord.pretrain.clustering.label_table import Labelled, LabelTable
from trichord.pretrain.clustering.lloyd import Clustering, cluster
from trichord.pretrain.clustering.rows import Rows
from trichord.pretrain.objectives.av_prototypes import RoundsSpec


class Prototypes(NamedTuple):
    """The clusters of one clustering."""

    centroids_KD: Tensor
    temperatures_K: Tensor  # from each cluster's concentration
    counts_K: Tensor  # rows of each cluster


class Column(NamedTuple):
    """One of the clusterings of a subject."""

    subject: str
    clusters: int

    @property
    def name(self) -> str:
        """The name in logged figures and state."""
        return f"{self.subject}_{self.clusters}"


class Store(Protocol):
    """The data to cluster: this rank's embeddings of each subject, and the sample of each row."""

    def rows(self, modality: str) -> Rows:
        """Return the embeddings of the samples that have this modality."""
        ...

    def keys(self, modality: str) -> Tensor:
        """Return the key hashes_n of `rows`."""
        ...

    def ages(self, modality: str) -> Tensor:
        """Return for each of `rows` how many rows of all ranks came later."""
        ...

    def truths(self, modality: str) -> Tensor:
        """Return for each of `rows` the first label in the shards, -1 where there is none."""
        ...


class Rounds:
    """All clusterings, and each sample's labels in the latest round."""

    def __init__(
        self, spec: RoundsSpec, clusters: Sequence[int], dims: Mapping[str, int], temperature: float, seed: int
    ) -> None:
        self._spec, self._temperature, self._seed = spec, temperature, seed
        self.columns = [Column(subject, count) for subject in dims for count in clusters]
        self.prototypes: dict[Column, Prototypes] = {}
        self.figures: dict[str, float] = {}
        self._table = LabelTable()

    @property
    def is_ready(self) -> bool:
        """Whether there has been a round."""
        return bool(self.prototypes)

    def is_due(self, step: int) -> bool:
        """Return whether a round is due between this step and the next."""
        after_first = step + 1 - self._spec.first_step
        return after_first >= 0 and after_first % self._spec.every_steps == 0

    def renew(self, step: int, store: Store) -> None:
        """Cluster what is stored; every rank takes part, and all get the same clusters."""
        labelled = {}
        for column in self.columns:
            found = self._cluster(column, store.rows(column.subject), step)
            keys_n, labels_n = store.keys(column.subject).cpu(), found.labels_N.cpu().long()
            before_n = self._table.lookup(column.name, keys_n)
            measured = health(labels_n, column.clusters, before_n, {"labels": store.truths(column.subject).cpu()})
            measured |= {"empty_repaired": found.repaired_empty, "giants_split": found.split_giant}
            self.figures |= {f"{column.name}/{name}": float(value) for name, value in measured.items()}
            labelled[column.name] = Labelled(keys_n, store.ages(column.subject).cpu(), labels_n)
        self._table.replace(labelled)

    def _cluster(self, column: Column, rows: Rows, step: int) -> Clustering:
        old = self.prototypes.get(column)
        found = cluster(
            rows,
            column.clusters,
            start_KD=old.centroids_KD if old else None,
            iterations=self._spec.iterations,
            seed=derive_seed(self._seed, "clusters", step, *column),
            spherical=self._spec.spherical,
            giant=self._spec.giant,
        )
        temperatures_K = concentration(found.distances_K, found.counts_K, self._temperature)
        self.prototypes[column] = Prototypes(found.centroids_KD, temperatures_K, found.counts_K)
        return found

    def look_up(self, column: Column, keys_b: Tensor) -> Tensor:
        """Return each sample's cluster in the latest round, -1 for one that was not part of it."""
        return self._table.lookup(column.name, keys_b)

    def nearest(self, column: Column, unit_bD: Tensor) -> Tensor:
        """Return the current nearest cluster of each embedding."""
        centroids_KD = self.prototypes[column].centroids_KD
        lengths_K = centroids_KD.square().sum(dim=1)
        return (unit_bD.detach() @ centroids_KD.T - lengths_K / 2).argmax(dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return the state to save, with figures, so that a resumed run logs the same as an uninterrupted one."""
        state = {f"figures.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.figures.items()}
        state |= {f"table.{name}": tensor for name, tensor in self._table.state().items()}
        for column, prototypes in self.prototypes.items():
            state |= {f"{column.name}.{name}": each for name, each in prototypes._asdict().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Load what `state` returned."""
        self.figures = {name: float(value) for name, value in within("figures", state).items()}
        self._table.load_state(within("table", state))
        for column in self.columns:
            kept = within(column.name, state)
            if kept:
                self.prototypes[column] = Prototypes(**{name: each.to(device) for name, each in kept.items()})


def within(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a state under the prefix `part`, without the prefix."""
    return {name.removeprefix(f"{part}."): each for name, each in state.items() if name.startswith(f"{part}.")}


def first_labels(labels: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each sample's first label, -1 where it has none."""
    return torch.tensor([each[0] if each else -1 for each in labels], dtype=torch.long)
