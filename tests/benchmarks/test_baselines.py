"""The baselines: pixel statistics, the initial weights of the run, and training with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.learning.baselines import initial_backbone, pixel_statistics, pooled, train_with_labels
from benchmarks.learning.probes import Standardiser
from benchmarks.learning.synthetic_clips import make_shards, read_clips
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.svt.objective import Svt
from trichord.pretrain.recipe import load_recipe

TINY = ["data.batch_size=16", "backbone.depth=1", "backbone.dim=32", "objective.prototypes=16"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("world"), 120)


def configure(shards: Path, *overrides: str) -> RunConfig:
    return load_recipe("svt_synthetic", [*TINY, f"data.sources={shards / 'train'}", *overrides]).config


def test_pixel_statistics_equal_those_of_numpy() -> None:
    frames_CTHW = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16)).astype(np.uint8)
    found_D = pixel_statistics(torch.from_numpy(frames_CTHW)[None])[0].numpy()
    pixels_CTHW = frames_CTHW / 255
    expected = [pixels_CTHW.mean((1, 2, 3)), pixels_CTHW.std((1, 2, 3), ddof=1)]
    expected += [np.histogram(colour, bins=16, range=(0, 1))[0] / colour.size for colour in pixels_CTHW]
    change_CTHW = np.abs(pixels_CTHW[:, 1:] - pixels_CTHW[:, :-1])
    for picture_CHW in (pixels_CTHW.mean(1), change_CTHW.mean(1)):
        expected.append(picture_CHW.reshape(3, 8, 2, 8, 2).mean((2, 4)).ravel())
    np.testing.assert_allclose(found_D, np.concatenate(expected), atol=1e-5)


def test_untrained_network_has_the_initial_weights_of_the_run(shards: Path) -> None:
    config = configure(shards, "seed=3")
    objective = build(config)
    assert isinstance(objective, Svt)
    initial = objective.student.backbone.state_dict()
    ours = initial_backbone(config).state_dict()
    assert initial.keys() == ours.keys()
    assert all(torch.equal(initial[name], ours[name]) for name in ours)


def test_training_with_labels_brings_clips_of_a_class_together(shards: Path) -> None:
    config = configure(shards, "steps=60", "optimiser.learning_rate=5e-3")
    beats: list[None] = []
    trained = train_with_labels(config, config.objective.global_view.crop, lambda: beats.append(None))
    assert len(beats) == config.steps
    clips = read_clips(shards / "train", config.backbone.frames, config.backbone.size)
    is_same_NN = clips.labels["colour"][:, None] == clips.labels["colour"]
    gaps = []
    for backbone in (initial_backbone(config), trained):
        features_ND = Standardiser.of(found := pooled(backbone, clips.frames_NCTHW, config.objective.normalisation))(
            found
        )
        cosine_NN = torch.cosine_similarity(features_ND[:, None], features_ND, dim=2)
        gaps.append(float(cosine_NN[is_same_NN].mean() - cosine_NN[~is_same_NN].mean()))
    assert gaps[1] > gaps[0] + 0.1
