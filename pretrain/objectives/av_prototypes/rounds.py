"""Rounds of clustering: embeddings are clustered again every `every_steps` steps, which yields prototypes and labels.

A subject is what is clustered: a modality, or both modalities' embeddings as one vector. Each has several clusterings.
A sample's label is looked up by its key in the latest round; a sample that was not part of it gets the nearest cluster.
The embeddings come from a memory bank, or from a forward pass of the current network over the clips that the coming
steps will read, without augmentation: nearly every clip of the steps until the next round thus has its own label, and
no clip is embedded needlessly. Those of a pass are written to files, because they may exceed the memory.
Legend: n rows of this rank, b samples of a batch, D features, K clusters.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trichord.core.console import pulse
from trichord.core.errors import RunStopped
from trichord.core.seeds import derive_seed
from trichord.pretrain.clustering.bank import Labelled, LabelTable, hash_keys
from trichord.pretrain.clustering.health import concentration, health
from trichord.pretrain.clustering.lloyd import Clustering, cluster
from trichord.pretrain.clustering.rows import EmbeddingRows, FileRows
from trichord.pretrain.collectives import rank, world_size
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec, RoundsSpec
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.crops import Squash
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec


class ClusterPrototypes(NamedTuple):
    """The clusters of one clustering."""

    centroids_KD: Tensor
    temperatures_K: Tensor  # from each cluster's concentration
    counts_K: Tensor  # rows of each cluster


class ClusterSet(NamedTuple):
    """One of the clusterings of a subject."""

    subject: str
    clusters: int

    @property
    def name(self) -> str:
        """The name in logged figures and state."""
        return f"{self.subject}_{self.clusters}"


class Store(Protocol):
    """The data to cluster: this rank's embeddings of each subject, and the sample of each row."""

    def rows(self, modality: str) -> EmbeddingRows:
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
        self.cluster_sets = [ClusterSet(subject, count) for subject in dims for count in clusters]
        self.prototypes: dict[ClusterSet, ClusterPrototypes] = {}
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
        for cluster_set in self.cluster_sets:
            found = self._cluster(cluster_set, store.rows(cluster_set.subject), step)
            keys_n, labels_n = store.keys(cluster_set.subject).cpu(), found.labels_N.cpu().long()
            before_n = self._table.lookup(cluster_set.name, keys_n)
            measured = health(
                labels_n, cluster_set.clusters, before_n, {"labels": store.truths(cluster_set.subject).cpu()}
            )
            measured |= {"empty_repaired": found.repaired_empty, "giants_split": found.split_giant}
            self.figures |= {f"{cluster_set.name}/{name}": float(value) for name, value in measured.items()}
            labelled[cluster_set.name] = Labelled(keys_n, store.ages(cluster_set.subject).cpu(), labels_n)
        self._table.replace(labelled)

    def _cluster(self, cluster_set: ClusterSet, rows: EmbeddingRows, step: int) -> Clustering:
        old = self.prototypes.get(cluster_set)
        found = cluster(
            rows,
            cluster_set.clusters,
            start_KD=old.centroids_KD if old else None,
            iterations=self._spec.iterations,
            seed=derive_seed(self._seed, "clusters", step, *cluster_set),
            spherical=self._spec.spherical,
            giant=self._spec.giant,
        )
        temperatures_K = concentration(found.distances_K, found.counts_K, self._temperature)
        self.prototypes[cluster_set] = ClusterPrototypes(found.centroids_KD, temperatures_K, found.counts_K)
        return found

    def cluster_of(self, cluster_set: ClusterSet, keys_b: Tensor) -> Tensor:
        """Return each sample's cluster in the latest round, -1 for one that was not part of it."""
        return self._table.lookup(cluster_set.name, keys_b)

    def nearest(self, cluster_set: ClusterSet, unit_bD: Tensor) -> Tensor:
        """Return the current nearest cluster of each embedding."""
        centroids_KD = self.prototypes[cluster_set].centroids_KD
        lengths_K = centroids_KD.square().sum(dim=1)
        return (unit_bD.detach() @ centroids_KD.T - lengths_K / 2).argmax(dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return the state to save, with figures, so that a resumed run logs the same as an uninterrupted one."""
        state = {f"figures.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.figures.items()}
        state |= {f"table.{name}": tensor for name, tensor in self._table.state().items()}
        for cluster_set, prototypes in self.prototypes.items():
            state |= {f"{cluster_set.name}.{name}": each for name, each in prototypes._asdict().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Load what `state` returned."""
        self.figures = {name: float(value) for name, value in within("figures", state).items()}
        self._table.load_state(within("table", state))
        for cluster_set in self.cluster_sets:
            kept = within(cluster_set.name, state)
            if kept:
                self.prototypes[cluster_set] = ClusterPrototypes(
                    **{name: each.to(device) for name, each in kept.items()}
                )


def within(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a state under the prefix `part`, without the prefix."""
    return {name.removeprefix(f"{part}."): each for name, each in state.items() if name.startswith(f"{part}.")}


def first_labels(labels: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each sample's first label, -1 where it has none."""
    return torch.tensor([each[0] if each else -1 for each in labels], dtype=torch.long)


Embed = Callable[[Batch], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]  # embeddings_bD and presence_b by subject


def unaltered(spec: AvPrototypesSpec) -> SampleSpec:
    """Return the sample spec of one clip from the middle of each video, the whole frame, not masked or flipped."""
    clips = spec.clips.fixed(1)
    assert clips is not None  # every kind that the spec allows has one
    views = ViewsSpec(clips=clips, views=(ViewSpec(crop=Squash(size=spec.view.crop.size)),))
    return spec.sample_spec().model_copy(update={"views": views, "is_training": False, "sound_of": "first_clip"})


class PassStore:
    """The embeddings of a pass, in files in a folder."""

    def __init__(self, folder: Path, dims: Mapping[str, int], device: torch.device) -> None:
        self._folder, self._dims, self._device = folder, dims, device
        self._facts: dict[str, list[Tensor]] = {name: [] for name in dims}  # keys_b, places_b and truths_b, stacked
        self._passed = 0

    def write(
        self,
        files: Mapping[str, FileIO],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        batch: Batch,
    ) -> None:
        """Add a batch."""
        truths_b = first_labels(batch.labels)
        facts_3b = torch.stack([hash_keys(batch.key), self._passed + torch.arange(len(truths_b)), truths_b])
        self._passed += len(truths_b)
        for name, file in files.items():
            there_b = present[name].cpu()
            _write_all(file, embeddings[name].to("cpu", torch.float16)[there_b].contiguous().numpy().tobytes())
            self._facts[name].append(facts_3b[:, there_b])

    def rows(self, modality: str) -> FileRows:
        return FileRows(self._folder / modality, self._dims[modality], device=self._device)

    def keys(self, modality: str) -> Tensor:
        return torch.cat(self._facts[modality], dim=1)[0]

    def ages(self, modality: str) -> Tensor:
        places_n = torch.cat(self._facts[modality], dim=1)[1]
        return (self._passed - 1 - places_n) * world_size() + world_size() - 1 - rank()

    def truths(self, modality: str) -> Tensor:
        return torch.cat(self._facts[modality], dim=1)[2]


@contextlib.contextmanager
def feature_pass(
    reader: Iterator[Batch], steps: int, dims: Mapping[str, int], embed: Embed, device: torch.device
) -> Generator[PassStore]:
    """Embed the clips of `steps` steps and yield the store, which is deleted on exit."""
    with tempfile.TemporaryDirectory(prefix="trichord-pass-") as name, contextlib.ExitStack() as opened:
        store = PassStore(Path(name), dims, device)
        # Unbuffered, or a full disk would raise again, without advice, when the files are closed.
        files = {each: opened.enter_context((Path(name) / each).open("wb", buffering=0)) for each in dims}
        beat = opened.enter_context(pulse("batches for clustering")) if rank() == 0 else _silent
        for _ in range(steps):
            batch = next(reader)
            embeddings, present = embed(batch)
            try:
                store.write(files, embeddings, present, batch)
            except OSError as error:
                raise RunStopped(
                    f"the embeddings of a pass could not be written to {name}: {error}. Set TMPDIR to a larger disk, "
                    "lower objective.target.rounds.samples, or set objective.target.rounds.source=bank"
                ) from error
            beat()
        opened.close()
        yield store


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _silent() -> None:
    """Report no progress, on all ranks but rank 0."""
