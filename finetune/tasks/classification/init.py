"""Initialises a classification beyond its backbones: the class frequencies, if its loss needs them.

Legend: K classes.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.annotations import read_annotations
from trichord.finetune.tasks.classification.model import Classification, check_labels
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.collectives import sum_over_ranks


def prepare(config: FinetuneConfig, objective: Classification) -> None:
    """Set the positive weights from the class counts of the training clips, if they are the inverse frequency."""
    if objective.spec.loss.counts_classes:
        objective.pos_weight_K.copy_(inverse_frequency(*count_labels(config, objective.spec)))


def count_labels(config: FinetuneConfig, spec: ClassificationSpec) -> tuple[Tensor, int]:
    """Return the numbers of training clips of each class and in total; each rank counts its share of the shards."""
    counts: Counter[int] = Counter()
    clips = 0
    for whose, annotation in read_annotations(config):
        check_labels(spec, annotation.labels, whose)
        counts.update(set(annotation.labels))
        clips += 1
    found = [*(counts[label] for label in range(spec.count)), clips]
    totals = sum_over_ranks(torch.tensor(found, dtype=torch.float64))
    return totals[:-1], int(totals[-1])


def inverse_frequency(counts_K: Tensor, clips: int) -> Tensor:
    """Return the number of clips without a class per clip with it, and 1 for a class without clips."""
    return torch.where(counts_K > 0, (clips - counts_K) / counts_K.clamp_min(1), torch.ones_like(counts_K)).float()
