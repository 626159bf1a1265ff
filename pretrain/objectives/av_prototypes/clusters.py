"""Targets from rounds of clustering: prototypes of the other modality, and clusters as labels.

CMPC (Zhu et al. 2022) contrasts each modality's embedding with the other's prototypes, here all of them at once, so
that samples of one cluster are not negatives of each other; XDC (Alwassel et al. 2020) learns clusters as classes.
Legend: b samples of this rank, D features, K clusters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.pretrain.clustering.bank import MemoryBank, hash_keys
from trichord.pretrain.collectives import mean_over_ranks, world_size
from trichord.pretrain.objectives.av_prototypes import LabelTarget, PrototypeTarget
from trichord.pretrain.objectives.av_prototypes.rounds import ClusterSet, Rounds, first_labels, within
from trichord.pretrain.objectives.av_prototypes.target import FeaturePass, Pair, Samples, Target, TargetOutput

OTHER = {"video": "audio", "audio": "video"}


class Clustered(Target):
    """A target that clusters the embeddings of a memory bank or of a feature pass in rounds."""

    def __init__(
        self,
        spec: PrototypeTarget | LabelTarget,
        dims: Mapping[str, int],
        batch_size: int,
        seed: int,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.rounds = Rounds(spec.rounds, spec.clusters, dims, temperature, seed)
        self.steps_kept = -(-spec.rounds.samples // batch_size)
        self._keeps_bank = spec.rounds.source == "bank"
        self._batch_size = batch_size
        self._check(spec)
        self._bank: MemoryBank | None = None

    def _check(self, spec: PrototypeTarget | LabelTarget) -> None:
        """Check before training, rather than hours into it, that the first round has a clip for every cluster."""
        clips = self.steps_kept * self._batch_size
        if self._keeps_bank:
            clips = min(clips, spec.rounds.first_step * self._batch_size)
        if clips < max(spec.clusters):
            raise UserError(
                f"objective.target.clusters={list(spec.clusters)}: the first round has {clips} "
                f"clip{'' if clips == 1 else 's'}, expected at least {max(spec.clusters)}, and better 40 for each "
                "cluster. Raise objective.target.rounds.first_step (with rounds.source=bank) or rounds.samples, or "
                "lower clusters"
            )

    def compute_loss(self, pairs: Sequence[Pair], samples: Samples) -> TargetOutput:
        keys_b = hash_keys(samples.keys)
        if self._keeps_bank:
            device = samples.valid_b.device
            embeddings, present = self.select(pairs[0], samples)
            self._opened(device).push(embeddings, keys_b, present, first_labels(samples.labels))
        if not self.rounds.is_ready:
            # Every parameter takes part, or ranks and optimiser would wait for gradients that never arrive.
            outputs = [each for pair in pairs for output in pair for each in (output.unit_BD, *output.logits_BK)]
            return TargetOutput(torch.stack([each.sum() for each in outputs]).sum() * 0, {}, {})
        # Cosines with neighbouring centroids are often equal in bfloat16, and the lower number would get their clips.
        with torch.autocast(samples.valid_b.device.type, enabled=False):
            terms = [term for pair in pairs for term in self._terms(pair, keys_b, samples)]
        device = terms[0].device
        health = {name: torch.tensor(value, device=device) for name, value in self.rounds.figures.items()}
        known_b = self.rounds.cluster_of(self.rounds.cluster_sets[0], keys_b) >= 0
        return TargetOutput(torch.stack(terms).mean(), {}, {**health, "known_share": known_b.float().mean().to(device)})

    def select(self, pair: Pair, samples: Samples) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the embeddings to cluster by subject, and which samples have them."""
        embeddings = {name: pair.subject(name).detach() for name in self.dims}
        return embeddings, {name: samples.valid_b if name == "video" else samples.present_b for name in self.dims}

    def _opened(self, device: torch.device) -> MemoryBank:
        """Return the bank, created on first use on the embeddings' device; it holds whole batches of all ranks."""
        if self._bank is None:
            rows_per_step = self._batch_size // world_size()
            self._bank = MemoryBank(self.steps_kept * rows_per_step, self.dims, rows_per_step, device)
        return self._bank

    def _labels(self, cluster_set: ClusterSet, keys_b: Tensor, pair: Pair) -> Tensor:
        """Return each sample's cluster: the one of its key, else the current nearest to its embedding."""
        nearest_b = self.rounds.nearest(cluster_set, pair.subject(cluster_set.subject))
        known_b = self.rounds.cluster_of(cluster_set, keys_b).to(nearest_b.device)
        return torch.where(known_b >= 0, known_b, nearest_b)

    @abstractmethod
    def _terms(self, pair: Pair, keys_b: Tensor, samples: Samples) -> list[Tensor]:
        """Return the losses of a pair of embeddings, which have equal weight."""

    def after_update(self, step: int, run_pass: FeaturePass) -> None:
        if not self.rounds.is_due(step):
            return
        if self._bank is not None:
            self.rounds.renew(step, self._bank)
        else:
            with run_pass(self.steps_kept, self.dims, self.select) as store:
                self.rounds.renew(step, store)

    def state(self) -> dict[str, Tensor]:
        bank = {f"bank.{name}": tensor for name, tensor in self._bank.state().items()} if self._bank else {}
        return {**bank, **{f"rounds.{name}": tensor for name, tensor in self.rounds.state().items()}}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.rounds.load_state(within("rounds", state), device)
        bank = within("bank", state)
        if bank and self._keeps_bank:
            self._opened(device).load_state(bank)


class PrototypeContrast(Clustered):
    """Softmax over all prototypes of the other modality."""

    def __init__(self, spec: PrototypeTarget, dims: Mapping[str, int], batch_size: int, seed: int) -> None:
        super().__init__(spec, dims, batch_size, seed, spec.temperature)
        self.spec = spec

    def _terms(self, pair: Pair, keys_b: Tensor, samples: Samples) -> list[Tensor]:
        terms = []
        for cluster_set in self.rounds.cluster_sets:
            prototypes = self.rounds.prototypes[cluster_set]
            unit_bD = pair.subject(OTHER[cluster_set.subject])
            cosines_bK = unit_bD @ prototypes.centroids_KD.T
            logits_bK = cosines_bK / (
                prototypes.temperatures_K if self.spec.by_concentration else self.spec.temperature
            )
            nll_b = functional.cross_entropy(logits_bK, self._labels(cluster_set, keys_b, pair), reduction="none")
            terms.append(mean_over_ranks(nll_b, samples.present_b))
        return terms


class ClusterLabels(Clustered):
    """Linear heads on the encoders learn clusters as classes."""

    def __init__(self, spec: LabelTarget, dims: Mapping[str, int], batch_size: int, seed: int) -> None:
        subjects = {"joint": sum(dims.values())} if spec.labels == "joint" else dims
        super().__init__(spec, subjects, batch_size, seed)
        self.spec = spec

    def _terms(self, pair: Pair, keys_b: Tensor, samples: Samples) -> list[Tensor]:
        terms = []
        for modality, output in (("video", pair.video), ("audio", pair.audio)):
            for number, cluster_set in enumerate(self._learnt_by(modality)):
                labels_b = self._labels(cluster_set, keys_b, pair)
                nll_b = functional.cross_entropy(output.logits_BK[number], labels_b, reduction="none")
                # Clips without audio have video: they count where only video is involved.
                weights_b = samples.valid_b if modality == cluster_set.subject == "video" else samples.present_b
                terms.append(mean_over_ranks(nll_b, weights_b * self._rarity(cluster_set, labels_b)))
        return terms

    def _learnt_by(self, modality: str) -> list[ClusterSet]:
        other = OTHER[modality]
        subjects = {"other": [other], "own": [modality], "both": [modality, other], "joint": ["joint"]}
        chosen = subjects[self.spec.labels]
        return [
            cluster_set
            for subject in chosen
            for cluster_set in self.rounds.cluster_sets
            if cluster_set.subject == subject
        ]

    def _rarity(self, cluster_set: ClusterSet, labels_b: Tensor) -> Tensor | float:
        """Return weights that count every cluster equally, as if a cluster were drawn and then a clip of it."""
        if not self.spec.balanced:
            return 1.0
        counts_K = self.rounds.prototypes[cluster_set].counts_K.float()
        return counts_K.sum() / (counts_K.clamp(min=1) * len(counts_K))[labels_b]
