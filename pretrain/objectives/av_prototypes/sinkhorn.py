"""Swapped assignment: each sense predicts which prototypes the other is assigned to, with all prototypes used alike.

Caron et al. 2020, "SwAV", section 3.1, with the two senses of a clip in place of two views: codes of one sense's
embeddings are their optimal transport to the prototypes (Sinkhorn and Knopp 1967), over all ranks' samples.
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
from trichord.pretrain.objectives.av_prototypes.target import Judged, Pair, Samples, Target


@torch.no_grad()
def balanced_codes(scores_bK: Tensor, weights_b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Give codes_bK whose rows sum to 1 and whose columns share out all ranks' weights evenly.

    In logarithms and double precision, since exp(1 / 0.05) times many is beyond what less holds. Samples without weight
    are assigned as the others are, and move nothing.
    """
    # Scores are cosines: less their bound no exponent is above 0, and no message has to find the largest.
    logs_bK = (scores_bK.double() - 1) / epsilon
    for _ in range(iterations):
        used_K = sum_over_ranks((logs_bK.exp() * weights_b[:, None]).sum(dim=0))
        logs_bK = logs_bK - used_K.clamp(min=1e-300).log()
        logs_bK = logs_bK - logs_bK.logsumexp(dim=1, keepdim=True)
    return logs_bK.exp().to(scores_bK.dtype)


class Prototypes(nn.Module):
    """Directions that both senses share; only their direction counts, so no step has to put them back to length 1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight_KD = nn.Parameter(torch.randn(count, dim) / dim**0.5)

    def forward(self, unit_bD: Tensor) -> Tensor:
        """Give cosines."""
        with torch.autocast(unit_bD.device.type, enabled=False):
            return unit_bD @ functional.normalize(self.weight_KD, dim=1).T


class SinkhornSwap(Target):
    """The prototypes and their loss."""

    def __init__(self, spec: SinkhornTarget, dims: Mapping[str, int], batch_size: int, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self.prototypes = Prototypes(spec.prototypes, dims["video"])

    def judge(self, pairs: Sequence[Pair], samples: Samples) -> Judged:
        terms, shares = [], []
        for pair in pairs:
            scores = {sense: self.prototypes(pair.subject(sense)) for sense in ("video", "audio")}
            codes = {
                sense: balanced_codes(each_bK, samples.present_b, self.spec.epsilon, self.spec.iterations)
                for sense, each_bK in scores.items()
            }
            for sense, other in (("video", "audio"), ("audio", "video")):
                logs_bK = functional.log_softmax(scores[sense] / self.spec.temperature, dim=1)
                terms.append(mean_over_ranks(-(codes[other] * logs_bK).sum(dim=1), samples.present_b))
                chosen_bK = functional.one_hot(scores[sense].argmax(dim=1), self.spec.prototypes)
                shares.append(sum_over_ranks((chosen_bK * samples.present_b[:, None]).sum(dim=0).double()))
        loss = torch.stack(terms).mean()
        used_K = torch.stack(shares).sum(dim=0)
        entropy = torch.special.entr(used_K / used_K.sum().clamp(min=1)).sum()
        health = {
            "target_over_ln_k": loss.detach() / math.log(self.spec.prototypes),
            "prototypes_used": entropy.exp(),
        }
        return Judged(loss, {}, health)
