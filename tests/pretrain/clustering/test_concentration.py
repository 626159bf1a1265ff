"""The temperature of a cluster is that of PCL, computed in a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.pretrain.clustering.row_stage import blobs
from trichord.pretrain.clustering.health import concentration
from trichord.pretrain.clustering.lloyd import cluster
from trichord.pretrain.clustering.rows import TensorRows


def test_temperatures_equal_those_of_pcl() -> None:
    rows_ND, _ = blobs(500, 16, 20, noise=0.8, skew=1.0)
    rows_ND[:, 15] = 0
    rows_ND = functional.normalize(rows_ND)
    rows_ND[0] = torch.eye(16)[15]  # a cluster of one row
    start_KD = torch.cat([rows_ND[:1], rows_ND[100:129]])
    found = cluster(TensorRows(rows_ND), 30, start_KD=start_KD, iterations=3)
    assert found.counts_K[0] == 1
    phi = []
    for number in range(30):
        members = rows_ND[found.labels_N == number].double()
        away = sum(float((row - found.centroids_KD[number].double()).norm()) for row in members)
        phi.append(away / (len(members) * np.log(len(members) + 10)) if len(members) > 1 else 0.0)
    phi = [max(phi) if int(count) <= 1 else each for each, count in zip(phi, found.counts_K, strict=True)]
    clipped = np.clip(phi, np.percentile(phi, 10), np.percentile(phi, 90))
    expected = 0.2 * clipped / clipped.mean()
    found_K = concentration(found.distances_K, found.counts_K, 0.2)
    np.testing.assert_allclose(found_K.numpy(), expected, rtol=1e-5)
    assert found_K.mean().item() == pytest.approx(0.2) and found_K[0] == found_K.max()


def test_rows_equal_to_their_centroids_have_the_mean_temperature() -> None:
    found_K = concentration(torch.zeros(3), torch.tensor([4, 0, 1]), 0.1)
    torch.testing.assert_close(found_K, torch.full((3,), 0.1))
