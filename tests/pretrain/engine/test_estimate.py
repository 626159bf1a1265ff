"""The dry run derives the same values as the run, finds errors before they cost anything, and suggests fixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pretrain.engine.small_run import settings, small_config
from trichord.launch import cli
from trichord.pretrain.engine.device import SupposedDevice, gpu_named, suppose
from trichord.pretrain.engine.estimate import Estimate, estimate
from trichord.pretrain.engine.rehearsal import training_flops
from trichord.shards.reading.manifest import Manifest, ShardEntry

H200 = SupposedDevice("h200", True, 139.8, 1.5, gpu_named("h200"))


def shards(folder: Path, counts: list[int]) -> Path:
    """Write a manifest of shards that need not exist, because a dry run opens none."""
    folder.mkdir()
    entries = tuple(ShardEntry(name=f"{i:05d}.tar", samples=count, bytes=1) for i, count in enumerate(counts))
    Manifest(shards=entries).save(folder)
    return folder


def value(found: Estimate, figure: str) -> Any:
    return next(row["value"] for row in found.figures if row["figure"] == figure)


def test_figures_equal_those_of_the_run(tmp_path: Path) -> None:
    root = shards(tmp_path / "set", [6, 0, 10, 14])
    config = small_config(root, data__batch_size=48, data__lanes=12, data__workers=3, engine__accumulation=4, steps=50)
    found = estimate(config, 4, H200, mfu=0.5)
    assert not found.mistakes
    assert value(found, "clips a step") == 48
    assert value(found, "clips a step and rank") == 12
    assert value(found, "clips at once") == 3
    assert value(found, "clips in all") == 50 * 48
    assert value(found, "lanes of a rank") == 3
    assert value(found, "lanes of a worker") == 1
    assert value(found, "shards a lane") == 3 / 12  # an empty shard contributes nothing
    assert value(found, "passes over the data") == 50 * 48 / 30
    flops = 4 * training_flops(config, 3)
    assert value(found, "TFLOP a step and rank") == flops / 1e12
    step_s = flops / (0.5 * 66.9e12)
    assert value(found, "seconds a step") == pytest.approx(step_s)
    assert value(found, "hours") == pytest.approx(50 * step_s / 3600)
    assert value(found, "clips/s") == pytest.approx(48 / step_s)
    assert found.deepspeed["train_micro_batch_size_per_gpu"] == 3
    assert [row["ZeRO"] for row in found.memory] == [0, 1, 2, 3]
    assert all(row["fits"] for row in found.memory)
    assert "ASSUMED" in next(row["how"] for row in found.figures if row["figure"] == "seconds a step")


def test_passes_over_sources_follow_their_weights(tmp_path: Path) -> None:
    first, second = shards(tmp_path / "a", [10, 10]), shards(tmp_path / "b", [40])
    sources = [{"root": str(first), "weight": 3}, {"root": str(second)}]
    found = estimate(small_config(first, data__sources=sources, steps=100), 1, H200)
    assert value(found, "passes over the data of source 0") == 100 * 8 * 0.75 / 20
    assert value(found, "passes over the data of source 1") == 100 * 8 * 0.25 / 40


def test_hours_can_be_estimated_from_another_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"step": step, "clips_per_s_device": speed} for step, speed in enumerate([1.0, 2.0, 4.0, 4.0, 5.0])]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 9}]))
    config = small_config(shards(tmp_path / "set", [16]), steps=90)
    found = estimate(config, 2, H200, like=run)
    assert value(found, "hours") == pytest.approx(90 * 8 / (2 * 4.0) / 3600)


def test_all_errors_are_reported_at_once_with_fixes(tmp_path: Path) -> None:
    config = small_config(tmp_path / "nowhere", data__workers=2)
    found = estimate(config, 3, H200)
    batch, lanes, missing = found.mistakes
    assert "data.batch_size=8 cannot be divided over 3 ranks" in batch
    assert "lanes=2 cannot be shared by 3 ranks x 2 workers" in lanes
    assert "does not exist" in missing
    assert not found.memory


def test_few_shards_are_an_error_only_if_remote(tmp_path: Path) -> None:
    folder = shards(tmp_path / "set", [8, 8])
    changes: dict[str, Any] = {"data__lanes": 8, "steps": 20}
    assert not estimate(small_config(folder, **changes), 1, H200).mistakes
    far = [{"root": "https://example.org/set", "manifest": str(folder / "manifest.json")}]
    (mistake,) = estimate(small_config(folder, data__sources=far, **changes), 1, H200).mistakes
    assert "2 shards for data.lanes=8" in mistake
    assert "about 4 lanes" in mistake


def test_insufficient_memory_is_reported_with_changes_that_would_fit(tmp_path: Path) -> None:
    config = small_config(shards(tmp_path / "set", [16]), backbone__dim=64, data__batch_size=64)
    roomy = estimate(config, 1, H200)
    plain, lean = (value(roomy, f"GiB of a step {what} activation checkpointing") for what in ("without", "with"))
    total = roomy.memory[0]["total"] - 1.5
    tight = SupposedDevice("small", True, total - (plain - lean) / 2, 0.0, gpu_named("t4"))
    (mistake,) = estimate(config, 1, tight).mistakes
    assert "backbone.activation_checkpointing=true" in mistake
    assert "engine.accumulation=2 or more" in mistake
    assert "engine.zero_stage=1" not in mistake  # its bucket alone would be too much
    mended = small_config(
        tmp_path / "set", backbone__dim=64, data__batch_size=64, backbone__activation_checkpointing=True
    )
    assert not estimate(mended, 1, tight).mistakes


def test_command_prints_everything_and_fails_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings(shards(tmp_path / "set", [16]))))
    command = ["pretrain", str(recipe), "--dry-run", "--as-ranks", "2", "--device", "h200"]
    assert cli.main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["figures"]["clips a step and rank"] == 4
    assert row["deepspeed"]["train_batch_size"] == 8
    assert row["mistakes"] == []
    assert cli.main([*command[:2], "data.workers=3", *command[2:]]) == 1
    shown = capsys.readouterr().out
    for expected in ("passes over the data", "ZeRO", '"train_batch_size": 8', "mistake: lanes=2 cannot be shared"):
        assert expected in shown
    assert cli.main([*command[:-1], "h2000"]) == 2
    assert "Did you mean 'h200'?" in capsys.readouterr().err


def test_default_device_is_this_machine() -> None:
    here = suppose(None)
    assert here.memory_gib is not None
    assert here.memory_gib > 0.1
    assert suppose("H200") == H200
