"""Clustering is Lloyd's k-means, no worse than that of FAISS, and reports rows that cannot be clustered."""

from __future__ import annotations

import math
from functools import partial

import faiss
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional

from tests.pretrain.clustering.row_stage import blobs, naive_kmeans, where_rounding_decides_nothing
from trichord.pretrain.clustering import lloyd, rows, start
from trichord.pretrain.clustering.lloyd import Clustering, ClusteringStopped, cluster
from trichord.pretrain.clustering.rows import TensorRows


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("tile_values", [2**21, 7 * 24])
def test_it_equals_lloyds_algorithm_from_the_same_centroids(
    spherical: bool, tile_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "TILE_VALUES", tile_values)
    monkeypatch.setattr(rows, "CHUNK_VALUES", 100 * 24)
    _, (rows_ND, found) = where_rounding_decides_nothing(partial(_six_iterations, spherical))
    centroids_KD, labels_N = naive_kmeans(rows_ND, rows_ND[:9], 6, spherical)
    assert (found.iterations, found.repaired_empty, found.split_giant) == (6, 0, 0)
    assert torch.equal(found.labels_N, labels_N)
    torch.testing.assert_close(found.centroids_KD.double(), centroids_KD, atol=1e-6, rtol=0)
    assert torch.equal(found.counts_K, labels_N.bincount(minlength=9))
    away_N = torch.linalg.vector_norm(rows_ND.double() - centroids_KD[labels_N], dim=1)
    assert found.objective == pytest.approx(float(away_N.square().mean()), rel=1e-6)
    distances_K = torch.zeros(9, dtype=torch.float64).index_add_(0, labels_N, away_N)
    torch.testing.assert_close(found.distances_K, distances_K, rtol=1e-6, atol=0)


def _six_iterations(spherical: bool, seed: int) -> tuple[Tensor, Clustering]:
    rows_ND, _ = blobs(700, 24, 15, noise=0.9, seed=seed)
    return rows_ND, cluster(TensorRows(rows_ND), 9, start_KD=rows_ND[:9], iterations=6, spherical=spherical)


def test_it_stops_at_convergence() -> None:
    _, (found, again) = where_rounding_decides_nothing(_until_convergence)
    assert found.iterations < 30 and again.iterations == 1
    assert torch.equal(found.labels_N, again.labels_N)


def _until_convergence(seed: int) -> tuple[Clustering, Clustering]:
    rows_ND, _ = blobs(700, 24, 9, noise=0.3, seed=seed)
    found = cluster(TensorRows(rows_ND), 9, iterations=300)
    return found, cluster(TensorRows(rows_ND), 9, start_KD=found.centroids_KD, iterations=300)


HARD = {
    "blobs": lambda: blobs(12000, 32, 40, noise=0.3),
    "blobs of unequal sizes": lambda: blobs(12000, 32, 40, noise=0.3, skew=1.0),
    "far fewer blobs than clusters": lambda: blobs(12000, 32, 10, noise=0.5),
    "blobs that overlap": lambda: blobs(12000, 32, 300, noise=1.0, skew=0.5),
    "no blobs": lambda: blobs(12000, 32, 1, noise=50.0),
}


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("kind", HARD)
def test_it_is_no_worse_than_faiss(kind: str, spherical: bool) -> None:
    rows_ND, _ = HARD[kind]()
    theirs = faiss.Kmeans(32, 40, niter=20, spherical=spherical, max_points_per_centroid=10**6, seed=3)
    theirs.train(rows_ND.numpy())
    centroids_KD = torch.from_numpy(theirs.centroids)
    away_NK = torch.cdist(rows_ND, centroids_KD)
    found = cluster(TensorRows(rows_ND), 40, iterations=20, spherical=spherical)
    assert found.objective < 1.01 * float(away_NK.amin(dim=1).square().mean())
    nearest_N = torch.cdist(rows_ND, found.centroids_KD).amin(dim=1)
    assert found.objective == pytest.approx(float(nearest_N.square().mean()), rel=1e-4)


def test_it_ends_like_faiss_from_the_same_centroids() -> None:
    def work(seed: int) -> tuple[Tensor, Clustering]:
        rows_ND, _ = blobs(6000, 32, 30, noise=0.8, seed=seed)
        return rows_ND, cluster(TensorRows(rows_ND), 30, start_KD=rows_ND[:30], iterations=15, spherical=False)

    _, (rows_ND, found) = where_rounding_decides_nothing(work)
    theirs = faiss.Kmeans(32, 30, niter=15, max_points_per_centroid=10**6)
    theirs.train(rows_ND.numpy(), init_centroids=rows_ND[:30].numpy())
    torch.testing.assert_close(found.centroids_KD, torch.from_numpy(theirs.centroids), atol=1e-4, rtol=0)


def test_warm_start_keeps_the_numbers_of_clusters() -> None:
    rows_ND, _ = blobs(4000, 32, 20, noise=0.4)
    drifted_ND = functional.normalize(rows_ND + 0.02 * torch.randn(rows_ND.shape, generator=torch.Generator()))
    before = cluster(TensorRows(rows_ND), 20)
    warm = cluster(TensorRows(drifted_ND), 20, start_KD=before.centroids_KD, seed=1)
    cold = cluster(TensorRows(drifted_ND), 20, seed=1)
    assert (warm.labels_N == before.labels_N).float().mean() > 0.99
    assert normalized_mutual_info_score(before.labels_N, warm.labels_N) > 0.99
    assert (cold.labels_N == before.labels_N).float().mean() < 0.5


def test_initial_centroids_do_not_depend_on_the_order_of_rows() -> None:
    rows_ND, _ = blobs(4000, 33, 12, noise=0.8)  # an odd number of features
    order_N = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    one, other = (start.draw_sample(TensorRows(each), 600, seed=5) for each in (rows_ND, rows_ND[order_N]))
    assert torch.equal(one.rows_sD, other.rows_sD) and one.count == 600
    assert len(one.rows_sD.unique(dim=0)) == 600
    apart = start.draw_sample(TensorRows(rows_ND), 600, seed=6)
    assert len(torch.cat([one.rows_sD, apart.rows_sD]).unique(dim=0)) > 1000


def test_many_clusters_are_initialised_with_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "MOST_SPREAD", 10)
    rows_ND, _ = blobs(900, 8, 12, noise=0.8)
    sample = start.draw_sample(TensorRows(rows_ND), 300, seed=5)
    assert torch.equal(start.choose_start(sample, 11, seed=5), sample.rows_sD[:11])
    assert not torch.equal(start.choose_start(sample, 10, seed=5), sample.rows_sD[:10])


def test_empty_clusters_are_filled() -> None:
    rows_ND, truths_N = blobs(2000, 16, 8, noise=0.2)
    start_KD = torch.stack([rows_ND[truths_N == number].mean(dim=0) for number in range(8)])
    start_KD[6:] = start_KD[5]  # the first of equal centroids gets the rows
    found = cluster(TensorRows(rows_ND), 8, start_KD=start_KD, iterations=30)
    assert found.repaired_empty == 2 and found.counts_K.min() > 0
    best = cluster(TensorRows(rows_ND), 8, iterations=30)
    assert found.objective < 2 * best.objective


def test_giant_clusters_are_split_on_request() -> None:
    generator = torch.Generator().manual_seed(0)
    small_ND, _ = blobs(600, 16, 30, noise=0.05)
    one_D = functional.normalize(torch.ones(16), dim=0)
    giant_ND = functional.normalize(one_D + 0.05 * torch.randn(3000, 16, generator=generator))
    rows_ND = torch.cat([small_ND, giant_ND])
    start_KD = torch.cat([torch.stack([small_ND[number] for number in range(59)]), one_D[None]])
    left = cluster(TensorRows(rows_ND), 60, start_KD=start_KD, iterations=30, giant=math.inf)
    split = cluster(TensorRows(rows_ND), 60, start_KD=start_KD, iterations=30, giant=10.0)
    assert left.split_giant == 0 and left.counts_K.max() == 3000
    assert split.split_giant >= 4 and split.counts_K.max() <= 10 * 60
    assert split.counts_K.min() > 0


def test_equal_rows_cannot_be_split() -> None:
    rows_ND = functional.normalize(torch.eye(4).repeat(50, 1))
    found = cluster(TensorRows(rows_ND), 6, start_KD=torch.cat([torch.eye(4), torch.eye(4)[:2]]), iterations=5, giant=1)
    assert (found.repaired_empty, found.split_giant) == (0, 0)
    assert found.objective == pytest.approx(0, abs=1e-6)
    assert sorted(found.counts_K.tolist()) == [0, 0, 50, 50, 50, 50]


def stopped(rows_ND: Tensor, clusters: int, **settings: object) -> str:
    with pytest.raises(ClusteringStopped) as caught:
        cluster(TensorRows(rows_ND), clusters, **settings)
    return str(caught.value)


def test_rows_that_cannot_be_clustered_stop_the_run() -> None:
    rows_ND, _ = blobs(300, 16, 8, noise=0.2)
    constant_ND = rows_ND[:1].expand(300, 16)
    message = stopped(constant_ND, 8)
    assert "only 1 distinct row among" in message and "same features for every sample (collapse)" in message
    nearly_ND = functional.normalize(constant_ND + 1e-5 * rows_ND)
    for settings in ({}, {"start_KD": rows_ND[:8]}):
        message = stopped(nearly_ND, 8, **settings)
        assert (
            "all 300 rows are nearly equal" in message
            and "expected at least 1e-06" in message
            and "collapse" in message
        )
    assert "found 300 rows over all ranks, expected at least 301," in stopped(rows_ND, 301)
    assert "only 8 distinct rows among 72, expected at least 9" in stopped(rows_ND[:8].repeat(9, 1), 9)
    rows_ND[7, 3] = math.nan
    rows_ND[9, 3] = math.inf
    assert "2 of 300 rows hold values that are not finite" in stopped(rows_ND, 8)


def test_invalid_arguments_are_errors() -> None:
    rows_ND, _ = blobs(300, 16, 8, noise=0.2)
    with pytest.raises(ValueError, match="start_KD of shape \\(8, 16\\), found \\(7, 16\\)"):
        cluster(TensorRows(rows_ND), 8, start_KD=rows_ND[:7])
    with pytest.raises(ValueError, match="expects unit vectors, found a mean squared length of 4"):
        cluster(TensorRows(2 * rows_ND), 8)


def test_default_giant_cluster_is_twenty_times_the_mean() -> None:
    assert lloyd.GIANT == 20
    rows_ND, _ = blobs(4000, 16, 100, noise=0.1, skew=1.5)
    found = cluster(TensorRows(rows_ND), 100, iterations=10)
    assert found.counts_K.max() <= 20 * 40
