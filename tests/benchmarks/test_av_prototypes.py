"""The audio-visual learning experiment: its figures and kept results, with tiny networks and without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.learning import av_prototypes as av_learning
from benchmarks.learning import experiment
from benchmarks.learning.av_prototypes import (
    AUDIBLE,
    MODALITIES,
    PROTOTYPES,
    RECIPE,
    SHUFFLED,
    WAYS,
    XDC,
    AvClips,
    ShuffledSounds,
    ShuffledSoundsConfig,
    learn,
    retrieval,
)
from benchmarks.learning.experiment import UNTRAINED
from tests.pretrain.objectives import av_stage
from trichord.core.errors import UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.av_prototypes.objective import AvPrototypes
from trichord.pretrain.recipe import load_recipe

TRAIN, TEST = 45, 31


def make_clips(count: int, seed: int) -> AvClips:
    """Return clips of noise with labels; every fifth is silent."""
    generator = torch.Generator().manual_seed(seed)
    frames_NCTHW = torch.randint(0, 256, (count, 3, 4, 8, 8), dtype=torch.uint8, generator=generator)
    sounds_NTM = torch.randn(count, 20, av_stage.MELS, generator=generator)
    present_N = torch.arange(count) % 5 != 2
    sounds_NTM[~present_N] = torch.nan
    labels = {
        factor: torch.randint(len(names), (count,), generator=generator).remainder(2)
        for factor, names in AUDIBLE.items()
    }
    return AvClips(frames_NCTHW, sounds_NTM, present_N, labels)


@pytest.mark.parametrize("levels", [None, 3])
def test_retrieval_figures_are_those_of_the_whole_matrix(levels: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    queries_MD, targets_MD = (torch.randn(75, 6, generator=generator) for _ in range(2))
    if levels:  # few directions, so that most cosines are tied
        queries_MD, targets_MD = (torch.eye(6)[each.argmax(dim=1) % levels] for each in (queries_MD, targets_MD))
    queries_MD, targets_MD = (torch.nn.functional.normalize(each) for each in (queries_MD, targets_MD))
    ranks = []
    for place, query_D in enumerate(queries_MD.double()):
        cosines = (targets_MD.double() @ query_D).tolist()
        greater = sum(each > cosines[place] for each in cosines)
        ranks.append(greater + (sum(each == cosines[place] for each in cosines) + 1) / 2)
    expected = {f"sound, R@{k}": sum(rank <= k for rank in ranks) / 75 for k in (1, 5, 10)}
    assert retrieval(queries_MD, targets_MD, "sound") == pytest.approx(
        {**expected, "sound, median rank": sorted(ranks)[37]}
    )


def test_identical_features_score_at_chance() -> None:
    same_MD = torch.ones(41, 4) / 2
    found = retrieval(same_MD, same_MD, "x")
    assert found == {"x, R@1": 0.0, "x, R@5": 0.0, "x, R@10": 0.0, "x, median rank": 21.0}


def test_silent_clips_count_for_video_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sounds are NaN here, so that any use of one would show."""
    monkeypatch.setattr(av_learning, "CLUSTERS", 3)
    parts = {"train": make_clips(TRAIN, 1), "test": make_clips(TEST, 2)}
    objective = av_stage.build()
    found = av_learning._figures(objective, parts)
    directions = {f"{way}, {figure}" for way in ("audio to video", "video to audio") for figure in FIGURES}
    linear = {f"{modality}: {factor}, linear" for modality in MODALITIES for factor in AUDIBLE}
    purity = {f"{modality}: purity of {factor}" for modality in MODALITIES for factor in AUDIBLE}
    assert found.keys() == directions | linear | purity
    assert all(0 <= value <= 1 or "rank" in name for name, value in found.items())
    _, unit = av_learning._features(objective, parts["test"])
    audible_N = parts["test"].present_N
    expected = retrieval(unit["audio"][audible_N], unit["video"][audible_N], "audio to video")
    assert {name: found[name] for name in expected} == expected
    assert unit["audio"][~audible_N].isnan().all() and unit["video"].isfinite().all()


FIGURES = ("R@1", "R@5", "R@10", "median rank")


def test_modalities_without_a_common_space_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av_learning, "CLUSTERS", 3)
    target = {"kind": "labels", "clusters": [3], "rounds": av_stage.ROUNDS}
    objective = av_stage.build(embedding_dim=None, cross_weight=0.0, target=target)
    found = av_learning._figures(objective, {"train": make_clips(TRAIN, 1), "test": make_clips(TEST, 2)})
    assert not any("to" in name.split() for name in found) and "audio: action, linear" in found


def test_diverged_network_is_an_error() -> None:
    with pytest.raises(UserError, match=r"the network diverged"):
        retrieval(torch.full((5, 3), torch.nan), torch.eye(5, 3), "x")


def test_control_differs_only_in_taking_the_sound_of_another_clip() -> None:
    batch = av_stage.batch()
    shuffled = av_stage.batch()
    order = [-1, *range(len(batch.key) - 1)]
    sounds = [sounds_BTM[order] for sounds_BTM in shuffled.audio]
    shuffled = shuffled.replace(audio=sounds, audio_present=shuffled.audio_present[order])
    kept = batch.audio[0].clone()
    trained = av_stage.build(target=None)
    control = av_stage.build(target=None)
    control.__class__ = ShuffledSounds
    assert torch.equal(control.training_step(batch, 0).loss, trained.training_step(shuffled, 0).loss)
    assert not torch.equal(trained.training_step(batch, 0).loss, trained.training_step(shuffled, 0).loss)
    assert torch.equal(batch.audio[0], kept)


def test_control_has_the_same_config_and_init() -> None:
    config = load_recipe(RECIPE, ("data.sources=nowhere", "seed=3")).config
    control = ShuffledSoundsConfig.model_validate(config.model_dump())
    assert control.model_dump(mode="json") == config.model_dump(mode="json")
    one, other = build(config), build(control)
    assert type(one) is AvPrototypes and type(other) is ShuffledSounds
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, RunConfig]]:
    """Replace training by a record of the folder and the settings of each run."""
    runs: list[tuple[str, RunConfig]] = []

    def note(config: RunConfig, run: Path) -> float:
        run.mkdir(exist_ok=True)
        runs.append((run.name, config))
        return 1.5

    def figures(objective: Any, parts: Mapping[str, Tensor]) -> dict[str, float]:
        return {"seen": float(len(runs))}

    monkeypatch.setattr(experiment, "train", note)
    monkeypatch.setattr(av_learning, "make_shards", lambda out, clips, rules: out / "shards")
    monkeypatch.setattr(av_learning, "read_clips", lambda root, config: make_clips(3, 0))
    monkeypatch.setattr(av_learning, "build", lambda config: None)
    monkeypatch.setattr(experiment, "_trained", lambda config, run: None)
    monkeypatch.setattr(av_learning, "_figures", figures)
    return runs


def test_every_seed_is_trained_in_every_way_once(tmp_path: Path, trained: list[tuple[str, RunConfig]]) -> None:
    parts, results = learn(tmp_path, [0, 1], 100, ("steps=99",))
    assert parts.keys() == {"train", "test"} and [list(each) for each in results] == [[UNTRAINED, *WAYS]] * 2
    folders = [f"{way.replace(' ', '_')}_seed_{seed}" for seed in (0, 1) for way in WAYS]
    assert [name for name, _ in trained] == folders
    assert {(config.seed, config.steps) for _, config in trained} == {(0, 99), (1, 99)}
    kinds = {name: type(config) for name, config in trained}
    assert kinds["sounds_shuffled_seed_0"] is ShuffledSoundsConfig and kinds["prototypes_seed_0"] is RunConfig
    assert (
        results[1][XDC].figures == {"seen": 7.0}
        and results[1][XDC].training_s == 1.5
        and results[1][UNTRAINED].figures == {"seen": 4.0}
    )

    _, again = learn(tmp_path, [0, 1], 100, ("steps=99",))
    assert len(trained) == len(folders)
    for before, after in zip(results, again, strict=True):
        assert {way: before[way] for way in WAYS} == {way: after[way] for way in WAYS}


def test_interrupted_and_changed_runs_are_trained(tmp_path: Path, trained: list[tuple[str, RunConfig]]) -> None:
    learn(tmp_path, [0], 100, ())
    (tmp_path / "XDC_seed_0" / "learning.json").unlink()
    learn(tmp_path, [0], 100, ())
    assert [name for name, _ in trained[len(WAYS) :]] == ["XDC_seed_0"]
    other = tmp_path / "prototypes_seed_0" / "learning.json"
    kept = json.loads(other.read_bytes())
    assert kept["config"]["way"] == PROTOTYPES and kept["config"]["clips"] == 100
    del trained[:]
    learn(tmp_path, [0], 200, ())  # other clips
    assert len(trained) == len(WAYS)
    del trained[:]
    learn(tmp_path, [0], 200, ("objective.temperature=0.2",))
    assert len(trained) == len(WAYS) and all(config.objective.temperature == 0.2 for _, config in trained)  # type: ignore[union-attr]
    assert {config["way"] for config in map(config_of, tmp_path.glob("*/learning.json"))} == set(WAYS) >= {SHUFFLED}


def config_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())["config"]
    return found
