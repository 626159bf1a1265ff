"""The config of a run: it needs no torch, its parts must agree, and errors suggest valid values."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from trichord.pretrain.config import RunConfig
from trichord.pretrain.config_tree import find_mistakes, overlay, with_defaults

SMALL: dict[str, Any] = {
    "steps": 10,
    "data": {"sources": "shards", "batch_size": 16},
    "backbone": {"kind": "timesformer"},
    "objective": {"kind": "svt"},
    "optimiser": {"learning_rate": 1e-3},
}


def small(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(overlay(SMALL, changes))


def test_config_is_read_without_torch() -> None:
    script = "import sys, trichord.pretrain.recipe, trichord.pretrain.commands; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "trichord.pretrain.config" in done.stdout
    for heavy in ("torch", "av", "webdataset", "deepspeed"):
        assert f"'{heavy}'" not in done.stdout


def test_the_stream_has_the_runs_seed() -> None:
    stream = small(seed=7, data={"lanes": 8, "workers": 2}).stream()
    assert (stream.seed, stream.lanes, stream.workers, stream.batch_size) == (7, 8, 2, 16)
    assert stream.sources[0].root == "shards"


def test_a_written_config_reads_back_equal() -> None:
    config = small(objective={"flips": {"exempt_labels": [2, 1]}}, init_from={"path": "w.pth"})
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"batch_size": 24}}, "data.batch_size=24 is not a multiple of data.lanes=16. Nearest: data.b"),
        ({"engine": {"accumulation": 3}}, "Nearest: data.batch_size 15 or 18, or engine.accumulation 2 or 4"),
        ({"engine": {"deepspeed": {"fp16": {}}}}, "engine.deepspeed.fp16 cannot be set: set engine.precision"),
        (
            {"backbone": {"kind": "timesformer", "patch": 14}},
            "a view of 96 pixels is not a multiple of the size step 14",
        ),
        (
            {"backbone": {"kind": "vivit", "tubelet": 4}},
            "a clip of 2 frames is not a multiple of the frame step 4 of backbone vivit. Nearest: 4 frames",
        ),
        (
            {"backbone": {"kind": "frame_fusion"}},
            "a clip of 8 frames is too short for backbone frame_fusion with these settings: it needs",
        ),
        (
            {"optimiser": {"learning_rate": {"kind": "cosine", "start": 1, "end": 0, "warmup_steps": 10}}},
            "optimiser.learning_rate.warmup_steps=10 must be below steps=10",
        ),
        (
            {"objective": {"teacher_temperature": {"warmup_steps": 20}}},
            "objective.teacher_temperature.warmup_steps=20 must be below steps=10",
        ),
        (
            {"optimiser": {"weight_decay": {"kind": "steps", "start": 1, "milestones": [5, 10]}}},
            "optimiser.weight_decay.milestones=[5, 10] exceed the last step, 9",
        ),
        ({"checkpoints": {"every_s": None}}, "no checkpoint would be saved before the end"),
        ({"checkpoints": {"keep_every_steps": 5}}, "keep_every_steps requires every_steps"),
        (
            {"checkpoints": {"every_steps": 4, "keep_every_steps": 6}},
            "keep_every_steps=6 is not a multiple of every_steps",
        ),
        ({"optimiser": {"betas": [0.9, 1.0]}}, "betas must be at least 0 and below 1"),
    ],
)
def test_parts_must_agree(changes: dict[str, Any], message: str) -> None:
    tree = overlay(with_defaults(RunConfig, SMALL), changes)
    with pytest.raises(ValidationError, match=re.escape(message)):
        RunConfig.model_validate(tree)


def test_disagreements_are_reported_all_at_once() -> None:
    tree = overlay(SMALL, {"data": {"batch_size": 24}, "backbone": {"patch": 14}})
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate(tree)
    batch, view = find_mistakes(RunConfig, tree, refused.value)
    assert batch.startswith("data.batch_size=24 ") and view.startswith("a view of 96 pixels ")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim.lrr", "optimiser.learning_rate"),
        ("optimizer.weight_decay", "optimiser.weight_decay"),
        ("lr", "optimiser.learning_rate"),
        ("wd", "optimiser.weight_decay"),
        ("optimiser.learning_rate.wamup_steps", "optimiser.learning_rate.warmup_steps"),
        ("objective.protoypes", "objective.prototypes"),
        ("objective.global_view.crop.sise", "objective.global_view.crop.size"),
        ("batch_size", "data.batch_size"),
        ("data.sources.0.wieght", "data.sources.0.weight"),
        ("checkpoint.every_s", "checkpoints.every_s"),
    ],
)
def test_unknown_key_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    assert mistakes_of(wrong) == [f"unknown key '{wrong}', nearest '{right}'"]


def test_unknown_key_without_a_near_match_is_answered_with_all_keys() -> None:
    assert mistakes_of("log.colour") == [
        "unknown key 'log.colour', expected one of log.every_steps, log.tensorboard, log.wandb_project"
    ]
    assert "expected one of seed, steps, data, " in mistakes_of("xyz")[0]


def mistakes_of(name: str) -> list[str]:
    layer: Any = 1
    for part in reversed(name.split(".")):
        layer = {part: layer}
    return find_mistakes(RunConfig, overlay(with_defaults(RunConfig, SMALL), layer), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: Input should be greater than 0, found 0"),
        ({"engine": {"zero_stage": 4}}, "engine.zero_stage: Input should be 0, 1, 2 or 3, found 4"),
        ({"data": {"sources": [{"weight": 2}]}}, "data.sources.0.root is missing: it has no default. Set data.s"),
        ({"init_from": {"part": "student"}}, "Set init_from.path=..., or omit it: init_from=null"),
        (
            {"objective": {"local_view": {"rand_augment": {"magnitude": 3}}}},
            "rand_augment does not select a class. Set objective.local_view.rand_augment.convention=...",
        ),
        (
            {"optimiser": {"learning_rate": {"kind": "cosine", "start": "fast", "end": 0}}},
            "optimiser.learning_rate.start: Input should be a valid number, unable to parse string as a number, found "
            "'fast'",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_key(changes: dict[str, Any], message: str) -> None:
    tree = overlay(with_defaults(RunConfig, SMALL), changes)
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate(tree)
    (mistake,) = find_mistakes(RunConfig, tree, refused.value)
    assert message in mistake
