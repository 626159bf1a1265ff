"""Scores of a video's clips put together: for the whole video, and for instants of it.

A clip speaks for its stretch of time, its end excluded. An instant's scores are those of the clips that hold it, put
together as those of a video are; where none does, those of the clip whose middle is nearest.
Legend: C clips of a video, K classes, T instants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.finetune.tasks.classification.metrics import Values
from trichord.finetune.tasks.classification.model import pooled, probabilities
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.record import Interval


@dataclass(frozen=True, eq=False)
class Video:
    """What a test found in a video, and what is known of it."""

    key: str
    duration_s: float
    intervals: tuple[Interval, ...]
    clips_s: tuple[tuple[float, float], ...]
    given_CK: Tensor  # probabilities, or logits where a recipe averages those

    def scores(self, spec: ClassificationSpec) -> Tensor:
        """Give each class's probability, K."""
        return _ended(pooled(self.given_CK, spec), spec)

    def clip_scores(self, spec: ClassificationSpec) -> Tensor:
        """Give them of each clip, CK."""
        return _ended(self.given_CK, spec)

    def scores_at(self, instants_T: Values, spec: ClassificationSpec) -> Tensor:
        """Give them of each instant, TK."""
        instants_T1 = torch.from_numpy(instants_T)[:, None]
        starts_C, ends_C = torch.tensor(self.clips_s, dtype=torch.float64).T
        holds_TC = (starts_C <= instants_T1) & (instants_T1 < ends_C)
        nearest_T1 = ((starts_C + ends_C) / 2 - instants_T1).abs().argmin(dim=1, keepdim=True)
        is_nearest_TC = torch.zeros_like(holds_TC).scatter(1, nearest_T1, True)
        speaks_TC = torch.where(holds_TC.any(dim=1, keepdim=True), holds_TC, is_nearest_TC)
        return _ended(torch.stack([pooled(self.given_CK[speaks_C], spec) for speaks_C in speaks_TC]), spec)


def _ended(given_XK: Tensor, spec: ClassificationSpec) -> Tensor:
    return probabilities(given_XK, spec) if spec.average == "logit" else given_XK
