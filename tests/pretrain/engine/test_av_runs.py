"""Audio-visual runs with the whole engine: rounds of clustering survive a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrain.engine.jobs import Job, run_jobs
from tests.pretrain.engine.small_run import av_changes, write_shards
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.objectives.av_prototypes.rounds import unaltered
from trichord.pretrain.recipe import load_recipe
from trichord.pretrain.recipe_file import list_recipes

FIFTH = Path("checkpoints/step_00000005")
# Of ten steps: one round between the fifth and the sixth, and one round around the fifth.
BETWEEN, WITHIN = {"first_step": 2, "every_steps": 3}, {"first_step": 2, "every_steps": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("heard") / "shards", sound=True)


def _tensors(run: Path) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(10)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resume_within_a_round_and_between_two_is_bit_identical(ranks: int, shards: Path, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "bank": av_changes(rounds={**BETWEEN, "samples": 24}),
        "pass": av_changes(rounds={**WITHIN, "samples": 16, "source": "pass"}),
        "labels": {**av_changes(kind="labels", rounds={**WITHIN, "samples": 16}), "engine__zero_stage": 2},
    }
    jobs = []
    for name, changes in kinds.items():
        jobs.append(Job(tmp_path / name, None, changes))
        jobs.append(Job(tmp_path / f"{name}_halved", tmp_path / name / FIFTH, changes))
    run_jobs(shards, jobs, ranks)
    for name in kinds:
        whole, halved = _tensors(tmp_path / name), _tensors(tmp_path / f"{name}_halved")
        assert whole.keys() == halved.keys()
        assert {each for each in whole if each.endswith(".centroids_KD")}
        assert any(each.startswith("target.bank.") for each in whole) == (name != "pass")
        for each in whole:
            assert torch.equal(whole[each], halved[each]), f"{name}: {each}"


def test_pass_embeds_whole_clips_without_augmentation() -> None:
    for recipe in (name for name in list_recipes() if name.startswith("av_")):
        spec = load_recipe(recipe, stand_ins={"data.sources": ["shards"]}).config.objective
        assert spec.kind == "av_prototypes"
        plain = unaltered(spec)
        (view,) = plain.views.views
        assert (view.flip_probability, view.grey_probability, view.jitter, view.crop.kind) == (0, 0, None, "squash")
        assert not plain.is_training and plain.views.clips.model_dump().get("placement") in ("uniform", "centre", None)
