"""Swapped assignment: each modality predicts the prototypes assigned to the other, with all prototypes used equally.

Caron et al. 2020, "SwAV", section 3.1, with the two modalities of a clip in place of two views: the codes of one
modality's embeddings are their optimal transport to the prototypes (Sinkhorn and Knopp 1967), over all ranks' samples.
Legend: b samples of this rank, D features, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.collectives import mean_over_ranks, sum_over_ranks
from trichord.pretrain.objectives.av_prototypes import SinkhornTarget
from trichord.pretrain.objectives.av_prototypes.target import Pair, Samples, Target, TargetOutput


@torch.no_grad()
def balanced_codes(scores_bK: Tensor, weights_b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes_bK whose rows sum to 1 and whose columns divide all ranks' weights evenly.

    Computed in logarithms and double precision, since sums of exp(1 / 0.05) exceed the range of lower precisions.
    Samples of weight 0 get codes like the others but do not affect theirs.
    """
    # Scores are cosines: less their bound, no exponent exceeds 0, and the maximum needs no communication.
    logs_bK = (scores_bK.double() - 1) / epsilon
    for _ in range(iterations):
        used_K = sum_over_ranks((logs_bK.exp() * weights_b[:, None]).sum(dim=0))
        logs_bK = logs_bK - used_K.clamp(min=1e-300).log()
        logs_bK = logs_bK - logs_bK.logsumexp(dim=1, keepdim=True)
    return logs_bK.exp().to(scores_bK.dtype)


class SharedPrototypes(nn.Module):
    """Prototypes shared by both modalities; only their direction matters, so no step needs to renormalise them."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight_KD = nn.Parameter(torch.randn(count, dim) / dim**0.5)

    def forward(self, unit_bD: Tensor) -> Tensor:
        """Return the cosines of embeddings with all prototypes."""
        with torch.autocast(unit_bD.device.type, enabled=False):
            return unit_bD @ functional.normalize(self.weight_KD, dim=1).T


class SinkhornSwap(Target):
    """The swapped-assignment loss with its prototypes."""

    def __init__(self, spec: SinkhornTarget, dims: Mapping[str, int], batch_size: int, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self.prototypes = SharedPrototypes(spec.prototypes, dims["video"])

    def compute_loss(self, pairs: Sequence[Pair], samples: Samples) -> TargetOutput:
        terms, shares = [], []
        for pair in pairs:
            scores = {modality: self.prototypes(pair.subject(modality)) for modality in ("video", "audio")}
            codes = {
                modality: balanced_codes(each_bK, samples.present_b, self.spec.epsilon, self.spec.iterations)
                for modality, each_bK in scores.items()
            }
            for modality, other in (("video", "audio"), ("audio", "video")):
                logs_bK = functional.log_softmax(scores[modality] / self.spec.temperature, dim=1)
                terms.append(mean_over_ranks(-(codes[other] * logs_bK).sum(dim=1), samples.present_b))
                chosen_bK = functional.one_hot(scores[modality].argmax(dim=1), self.spec.prototypes)
                shares.append(sum_over_ranks((chosen_bK * samples.present_b[:, None]).sum(dim=0).double()))
        loss = torch.stack(terms).mean()
        used_K = torch.stack(shares).sum(dim=0)
        entropy = torch.special.entr(used_K / used_K.sum().clamp(min=1)).sum()
        health = {
            "target_over_ln_k": loss.detach() / math.log(self.spec.prototypes),
            "prototypes_used": entropy.exp(),
        }
        return TargetOutput(loss, {}, health)
