"""Probes against naive loops and scikit-learn, and on features that contain a factor or do not."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.learning.probes import LabelledFeatures, Standardiser, choose_l2, fit_linear, probe, vote

CLASSES = 4


def make_features(clips: int, seed: int, signal: float) -> tuple[Tensor, Tensor]:
    """Draw noise around one centre per class; the centres are the same for every seed."""
    centres_KD = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(CLASSES, (clips,), generator=generator)
    noise_ND = torch.randn(clips, 12, generator=generator)
    return (signal * centres_KD[labels_N] + noise_ND).double(), labels_N


def test_votes_equal_those_of_a_loop() -> None:
    train_ND, labels_N = make_features(60, 1, 0.5)
    test_MD, _ = make_features(20, 2, 0.5)
    found_M = vote(train_ND, labels_N, test_MD, CLASSES, neighbours=7, temperature=0.2)
    for clip_D, found in zip(test_MD, found_M.tolist(), strict=True):
        cosines = [float(clip_D @ other_D / (clip_D.norm() * other_D.norm())) for other_D in train_ND]
        nearest = sorted(range(60), key=lambda place: -cosines[place])[:7]
        votes = [0.0] * CLASSES
        for place in nearest:
            votes[int(labels_N[place])] += math.exp(cosines[place] / 0.2)
        assert found == votes.index(max(votes))


def test_votes_equal_those_of_scikit_learn() -> None:
    train_ND, labels_N = make_features(200, 3, 0.4)
    test_MD, _ = make_features(100, 4, 0.4)
    reference = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: torch.tensor(1 - distance).div(0.07).exp().numpy()
    )
    reference.fit(train_ND.numpy(), labels_N.numpy())
    assert vote(train_ND, labels_N, test_MD, CLASSES).tolist() == reference.predict(test_MD.numpy()).tolist()


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_linear_probe_equals_logistic_regression_of_scikit_learn(l2: float) -> None:
    features_ND, labels_N = make_features(300, 5, 0.4)
    fitted = fit_linear(features_ND, labels_N, CLASSES, l2)
    # The reference sums the losses of the clips and weights that sum instead of the penalty.
    reference = LogisticRegression(C=1 / (l2 * 300), tol=1e-8, max_iter=5000).fit(features_ND.numpy(), labels_N.numpy())
    torch.testing.assert_close(fitted.weight_DK, torch.from_numpy(reference.coef_.T), atol=1e-3, rtol=0)
    bias_K = torch.from_numpy(reference.intercept_)
    torch.testing.assert_close(fitted.bias_K - fitted.bias_K.mean(), bias_K - bias_K.mean(), atol=1e-3, rtol=0)


def test_chosen_l2_is_the_best_on_held_out_clips() -> None:
    generator = torch.Generator().manual_seed(6)
    labels_N = torch.randint(2, (250,), generator=generator)
    informative_N1 = 2 * labels_N[:, None] + torch.randn(250, 1, generator=generator)
    # With as many features as clips, a weak penalty overfits the clips and does badly on others.
    features_ND = torch.cat((informative_N1, torch.randn(250, 190, generator=generator)), dim=1).double()
    assert choose_l2(features_ND, labels_N, 2, (1e-6, 0.3)) == 0.3
    # A penalty this strong makes all predictions alike, though the one feature is all that there is to learn from.
    assert choose_l2(informative_N1.double(), labels_N, 2, (1e-3, 1e6)) == 1e-3


def test_features_are_standardised_by_the_training_clips_alone() -> None:
    train_ND = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    scale = Standardiser.of(train_ND)
    deviation = math.sqrt(2)
    torch.testing.assert_close(scale(train_ND)[:, 0], torch.tensor([-1, 1]).double() / deviation)
    torch.testing.assert_close(scale(torch.tensor([[4.0, 5.0]]))[0, 0], torch.tensor(2 / deviation).double())
    assert bool((scale(train_ND)[:, 1] == 0).all())


def test_start_changes_nothing_but_the_time() -> None:
    features_ND, labels_N = make_features(300, 5, 0.4)
    far = fit_linear(features_ND, labels_N, CLASSES, 1.0)
    fresh, started = (fit_linear(features_ND, labels_N, CLASSES, 1e-2, start) for start in (None, far))
    torch.testing.assert_close(started.weight_DK, fresh.weight_DK, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("signal", "lowest", "highest"), [(2.0, 0.95, 1.0), (0.0, 0.15, 0.35)])
def test_probe_finds_a_signal_only_where_there_is_one(signal: float, lowest: float, highest: float) -> None:
    sets = [make_features(400, seed, signal) for seed in (7, 8, 9)]
    train, *tests = (LabelledFeatures(features_ND * 1000, labels_N) for features_ND, labels_N in sets)
    found = probe(train, {"one": tests[0], "other": tests[1]}, CLASSES)
    assert found.keys() == {"one", "other"}
    for accuracy in found.values():
        assert lowest <= accuracy.knn <= highest
        assert lowest <= accuracy.linear <= highest
