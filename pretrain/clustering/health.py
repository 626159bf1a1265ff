"""Quality figures of a clustering round, and the temperature of each prototype.

`health` measures how even the clusters are and how well they agree with the previous round and with known labels, over
all ranks' rows. Only pairs of labels that occur are counted and gathered, which is little data for any number of
clusters. Normalised mutual information is 2 I(a; b) / (H(a) + H(b)), in nats.

`concentration` returns a temperature for every cluster, lower where its rows lie close together (Li et al. 2021,
"Prototypical Contrastive Learning", section 3.3): phi_c = sum_i |v_i - c| / (n_c log(n_c + alpha)).
Legend: N rows of this rank, P distinct pairs of labels, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trichord.pretrain.collectives import gather_unequal_rows, sum_over_ranks


@torch.no_grad()
def health(
    labels_N: Tensor, clusters: int, before_N: Tensor | None = None, truths: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Return the figures of a clustering, the same on all ranks; every rank calls it with its own rows.

    `before_N` are the same rows' labels in the previous round, `truths` their ground-truth labels by name. A comparison
    leaves out rows with -1 on either side; if no row remains, its figures are left out.
    """
    counts_K = sum_over_ranks(torch.bincount(labels_N[labels_N >= 0], minlength=clusters)).double()
    entropy = _entropy(counts_K)
    figures = {
        "entropy": entropy,
        "entropy_over_ln_k": entropy / math.log(clusters) if clusters > 1 else 0.0,
        "effective_clusters": math.exp(entropy),
        "largest_share": float(counts_K.max() / counts_K.sum().clamp(min=1)),
    }
    if before_N is not None:
        table = _Contingency(labels_N, before_N)
        if table.total:
            figures["nmi_before"] = table.nmi()
    for name, truth_N in (truths or {}).items():
        table = _Contingency(labels_N, truth_N)
        if table.total:
            figures |= {f"nmi_{name}": table.nmi(), f"purity_{name}": table.purity()}
    return figures


class _Contingency:
    """The contingency table of two labellings: over all ranks, the number of rows with each pair of labels."""

    def __init__(self, labels_N: Tensor, others_N: Tensor) -> None:
        is_known_N = (labels_N >= 0) & (others_N >= 0)
        pairs_N2 = torch.stack([labels_N[is_known_N], others_N[is_known_N]], dim=1)
        pairs_P2, counts_P = pairs_N2.unique(dim=0, return_counts=True)
        gathered_P2, place_P = gather_unequal_rows(pairs_P2).unique(dim=0, return_inverse=True)
        counts = gather_unequal_rows(counts_P).double()
        self._counts_P = counts.new_zeros(len(gathered_P2)).index_add_(0, place_P, counts)
        self._labels_P, self._others_P = gathered_P2.unbind(1)
        self.total = float(self._counts_P.sum())

    def nmi(self) -> float:
        """Return the mutual information: 1 if one labelling determines the other, 0 if they are independent."""
        one = _entropy(torch.bincount(self._labels_P, weights=self._counts_P))
        other = _entropy(torch.bincount(self._others_P, weights=self._counts_P))
        if one + other == 0:  # all rows have one label on either side
            return 1.0
        shared = one + other - _entropy(self._counts_P)
        return max(0.0, 2 * shared / (one + other))

    def purity(self) -> float:
        """Return the share of rows whose other label is the most frequent one in their cluster."""
        best_K = self._counts_P.new_zeros(int(self._labels_P.max()) + 1)
        best_K.scatter_reduce_(0, self._labels_P, self._counts_P, "amax")
        return float(best_K.sum()) / self.total


def _entropy(counts: Tensor) -> float:
    """Return the entropy in nats of the distribution given by counts."""
    shares = counts / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum())


_LOWEST, _HIGHEST = 0.1, 0.9  # quantiles to which clusters' values are clamped


@torch.no_grad()
def concentration(distances_K: Tensor, counts_K: Tensor, temperature: float, alpha: float = 10.0) -> Tensor:
    """Return temperatures whose mean is `temperature`, from sums of distances to centroids and numbers of rows.

    The distances are not squared. Clusters of at most one row have no width; they get that of the widest cluster.
    """
    counts_K = counts_K.double()
    phi_K = distances_K.double() / (counts_K.clamp(min=1) * torch.log(counts_K + alpha))
    phi_K = torch.where(counts_K > 1, phi_K, 0.0)
    phi_K = torch.where(counts_K > 1, phi_K, phi_K.max())
    quantiles = torch.tensor([_LOWEST, _HIGHEST], dtype=phi_K.dtype, device=phi_K.device)
    lowest, highest = torch.quantile(phi_K, quantiles)
    phi_K = phi_K.clamp(lowest, highest)
    if not phi_K.any():  # every row is a centroid
        return torch.full_like(phi_K, temperature).float()
    return (phi_K * (temperature / phi_K.mean())).float()
