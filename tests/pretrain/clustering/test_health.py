"""Figures of a clustering equal those of scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from trichord.pretrain.clustering.health import health


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_comparisons_equal_those_of_scikit_learn(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truths = torch.randint(0, 9, (2000,), generator=generator)
    is_noisy = torch.rand(2000, generator=generator) < noise
    labels = torch.where(is_noisy, torch.randint(0, 20, (2000,), generator=generator), truths % 5 + 3)
    found = health(labels, 20, before_N=truths, truths={"shape": truths})
    nmi = normalized_mutual_info_score(truths, labels)
    table = contingency_matrix(labels, truths)
    assert found["nmi_before"] == pytest.approx(nmi, abs=1e-9) == found["nmi_shape"]
    assert found["purity_shape"] == pytest.approx(table.max(axis=1).sum() / 2000)


def test_evenness() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [4] * 3)
    found = health(labels, 8)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found == pytest.approx(
        {
            "entropy": entropy,
            "entropy_over_ln_k": entropy / math.log(8),
            "effective_clusters": math.exp(entropy),
            "largest_share": 0.5,
        }
    )
    assert health(torch.arange(8), 8)["effective_clusters"] == pytest.approx(8)
    assert health(torch.zeros(8, dtype=torch.long), 1)["entropy_over_ln_k"] == 0


def test_unknown_labels_are_ignored() -> None:
    labels, before = torch.tensor([0, 0, 1, 1, 2, -1]), torch.tensor([1, 1, 0, 0, -1, 5])
    found = health(labels, 3, before_N=before, truths={"none": torch.full((6,), -1)})
    assert found["nmi_before"] == pytest.approx(1) and found["largest_share"] == 0.4
    assert not [name for name in found if name.endswith("none")]
    same = torch.zeros(4, dtype=torch.long)
    assert health(same, 3, before_N=same)["nmi_before"] == normalized_mutual_info_score(same, same) == 1
    assert health(same, 3, before_N=torch.arange(4))["nmi_before"] == 0
