"""How a run stops: by a signal, at a non-finite step, on a full disk, or when a rank cannot read data."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.pretrain.engine.small_run import settings, small_config, write_shards
from tests.pretrain.processes import start_ranks
from trichord.core.errors import Interrupted, RunStopped, UserError
from trichord.core.run_folder import RunFolder
from trichord.launch import cli
from trichord.pretrain.engine import checkpoint_files, run_lock, training
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.checkpoint_files import CheckpointFile, CheckpointIndex
from trichord.pretrain.engine.finite import replay
from trichord.pretrain.engine.metrics import Recorder
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.pretrain.engine.run_lock import RunLock
from trichord.pretrain.engine.trackers import FILE_NAME, read_rows
from trichord.pretrain.objectives.base import StepOutput
from trichord.pretrain.objectives.svt.objective import Svt
from trichord.pretrain.weights.export import read_part
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import WorkerDied


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("small") / "shards")


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_run, "training_flops", lambda *_: 1e9)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _during_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Svt, StepOutput], StepOutput]) -> None:
    """Call a function in the forward pass of a step."""
    step_of = Svt.training_step

    def training_step(self: Svt, batch: Batch, step: int) -> StepOutput:
        output = step_of(self, batch, step)
        return act(self, output) if step == number else output

    monkeypatch.setattr(Svt, "training_step", training_step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_ends_the_step_saves_and_is_reported(
    number: signal.Signals, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signal_now(_: Svt, output: StepOutput) -> StepOutput:
        os.kill(os.getpid(), number)
        return output

    before = signal.getsignal(number)
    _during_step(monkeypatch, 3, signal_now)
    with pytest.raises(Interrupted, match="everything is saved") as raised:
        engine_run.pretrain(small_config(shards), tmp_path)
    assert raised.value.signal_number == number
    assert checkpoint_files.checkpoints_in(tmp_path / "checkpoints")[0].name == "step_00000004"
    assert signal.getsignal(number) == before


def test_signal_that_also_ends_data_workers_is_reported_as_the_signal(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster signals all processes of a job, so that a rank that waits for data sees a worker die."""
    draw = Prefetcher.__next__

    def lose_worker(prefetcher: Prefetcher) -> Batch:
        batch = draw(prefetcher)
        if batch.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise WorkerDied("worker 0 (exit code -15) died")
        return batch

    monkeypatch.setattr(Prefetcher, "__next__", lose_worker)
    with pytest.raises(Interrupted, match="stopped after 2 steps by SIGTERM, everything is saved"):
        engine_run.pretrain(small_config(shards), tmp_path)
    assert checkpoint_files.checkpoints_in(tmp_path / "checkpoints")[0].name == "step_00000002"


def test_signal_during_the_last_save_does_not_damage_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = checkpoint_files.finish

    def finish_signalled(temporary: Path, index: CheckpointIndex) -> Path:
        os.kill(os.getpid(), signal.SIGUSR1)  # which kills a process without a handler
        return finish(temporary, index)

    monkeypatch.setattr(checkpoint_files, "finish", finish_signalled)
    engine_run.pretrain(small_config(shards, steps=3), tmp_path)
    assert (tmp_path / "checkpoints/latest").read_text() == "step_00000003\n"


@pytest.mark.parametrize("moment", ["a step", "a save"])
def test_start_that_loses_the_lock_writes_nothing_more(
    moment: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later start of the job takes over the lock: no step is logged any more, and no save is completed."""
    locks: list[RunLock] = []

    def take(*arguments: Any) -> RunLock:
        locks.append(run_lock.take_lock(*arguments))
        return locks[-1]

    def lose() -> None:
        holder = json.loads(RunFolder(tmp_path).lock.read_text())
        RunFolder(tmp_path).lock.write_text(json.dumps(holder | {"token": "of the later start"}))

    def lose_in_step(_: Svt, output: StepOutput) -> StepOutput:
        lose()
        while not locks[0].is_lost:  # a beat
            time.sleep(0.01)
        return output

    def lose_in_save(temporary: Path, tensors: dict[str, torch.Tensor]) -> CheckpointFile:
        if "step_00000003" in temporary.parent.name:
            lose()
        return write(temporary, tensors)

    write = checkpoint_files.write_tensors
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05 if moment == "a step" else 1000.0)
    monkeypatch.setattr(engine_run, "take_lock", take)
    if moment == "a step":
        _during_step(monkeypatch, 2, lose_in_step)
    else:
        monkeypatch.setattr(checkpoint_files, "write_tensors", lose_in_save)
    with pytest.raises(RunStopped, match="belongs to a later start of this job; this one stops and writes nothing"):
        engine_run.pretrain(small_config(shards, checkpoints__every_steps=1), tmp_path)
    assert checkpoint_files.checkpoints_in(tmp_path / "checkpoints")[0].name == "step_00000002"
    assert not list((tmp_path / "checkpoints").glob(".unfinished*"))
    printed = capsys.readouterr().err
    assert ("step  3/10" in printed) == (moment == "a save") and "step  4/10" not in printed
    rows = [row["step"] for row in read_rows(tmp_path / FILE_NAME)]
    assert rows == ([0, 1, 2] if moment == "a save" else [0, 1])
    holder = run_lock.read_holder(tmp_path)
    assert holder is not None and holder.token == "of the later start"


def test_non_finite_step_stops_before_the_update_and_can_be_replayed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An overflow in the student's head: weights stay those of the previous step; the replay names the module."""

    def break_head(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.inf if engine_step[0] == 6 and module.training else output

    engine_step = [0]
    set_rates = training.set_rates
    build = training.build

    def note_step(*arguments: Any) -> Any:
        engine_step[0] = arguments[2]
        return set_rates(*arguments)

    def build_breakable(*arguments: Any) -> Any:
        objective = build(*arguments)
        objective.student.head.mlp[2].register_forward_hook(break_head)
        return objective

    monkeypatch.setattr(training, "set_rates", note_step)
    monkeypatch.setattr(training, "build", build_breakable)
    run = tmp_path / "run"
    config = small_config(shards, checkpoints__every_steps=1)
    with pytest.raises(RunStopped, match="trichord replay") as stopped:
        engine_run.pretrain(config, run)
    assert "rank 0: the loss" in str(stopped.value)

    failure = run / "failures/step_00000006"
    failed = json.loads((failure / "failure.json").read_text())
    assert failed["step"] == 6 and len(failed["ranks"][0]["samples"]) == 8
    kept, last = failure / "step_00000006", run / "checkpoints/step_00000006"
    for path in (kept, last):  # the state before the step, after step 5
        assert checkpoint_files.read_index(path).step == 6
    names = sorted(checkpoint_files.read_index(kept).files)
    expected = dict(checkpoint_files.read_tensors(last, names))
    for name, tensor in checkpoint_files.read_tensors(kept, names):
        assert torch.equal(tensor, expected[name]), name

    monkeypatch.setattr("trichord.pretrain.engine.finite.build", build_breakable)
    rows = replay(run, None, None)
    assert rows[0]["where"] == "output of student.head.mlp.2" and rows[0]["step"] == 6
    assert any(row["where"] == "loss" and failed["ranks"][0]["samples"][0]["key"] in row["keys"] for row in rows)
    assert any(row["where"].startswith("gradient of student.") for row in rows)
    with pytest.raises(UserError, match="Known: step_00000006"):
        replay(run, 3, None)

    # Without the overflow the same step is finite, and the command reports that.
    engine_step[0] = 0
    assert cli.main(["replay", str(run), "--rank", "0"]) == 0
    assert "everything is finite" in capsys.readouterr().err


def test_full_disk_is_reported_without_ending_the_run_but_the_last_save_must_succeed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, failing = checkpoint_files.save_file, [2]  # type: ignore[attr-defined]

    def fill_disk(tensors: Any, path: Path, metadata: Any) -> None:
        if failing[0]:
            failing[0] -= 1
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(checkpoint_files, "save_file", fill_disk)
    config = small_config(shards, checkpoints__every_steps=2, steps=6)
    engine_run.pretrain(config, tmp_path / "a")
    printed = capsys.readouterr().err
    assert printed.count("No space left on device") == 2 and "tries again" in printed
    folder = tmp_path / "a/checkpoints"
    assert [path.name for path in checkpoint_files.checkpoints_in(folder)] == ["step_00000006"]
    assert not list(folder.glob(".unfinished*"))

    failing[0] = 100
    with pytest.raises(RunStopped, match="newest checkpoint is that of step 0"):
        engine_run.pretrain(config, tmp_path / "b")


def test_full_disk_for_metrics_and_reports_is_reported_and_hides_no_error(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def spoil(_: Svt, output: StepOutput) -> StepOutput:
        return output._replace(loss=output.loss * torch.nan)

    monkeypatch.setattr(Recorder, "write", fill_disk)
    monkeypatch.setattr(checkpoint_files, "save_file", fill_disk)
    _during_step(monkeypatch, 1, spoil)
    with pytest.raises(RunStopped, match=r"not finite, and was not applied:(?s:.)*could not be saved.*No space left"):
        engine_run.pretrain(small_config(shards, steps=3), tmp_path)
    assert "the figures of step 0 could not be written: [Errno 28]" in capsys.readouterr().err


def test_rank_that_cannot_read_stops_all_at_the_same_step_with_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    found = settings(shards, steps=50, data__max_bad_fraction=0.0, data__bad_least_samples=1)
    recipe.write_text(yaml.safe_dump(found))
    broken = tmp_path / "shards"
    broken.mkdir()
    for path in shards.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    # Each lane reads its own half of the shards; damage one clip of one shard.
    data = bytearray((broken / "00002.tar").read_bytes())
    at = data.index(b"ftyp")
    data[at : at + 600] = bytes(600)
    (broken / "00002.tar").write_bytes(data)
    command = ["trichord", "pretrain", str(recipe), f"data.sources={broken}"]
    run = tmp_path / "run"
    ranks = start_ranks([*command, "--run", str(run)], 2)
    printed, errors = zip(*(process.communicate() for process in ranks), strict=True)
    assert sorted(process.returncode for process in ranks) == [1, 2], errors
    reader = next(number for number, process in enumerate(ranks) if process.returncode == 2)
    assert "could not be used" in errors[reader] and "Traceback" not in errors[0] + errors[1]
    assert "another rank could not read its data" in errors[1 - reader]
    assert printed == ("", "")  # it is for figures only, and DeepSpeed would print there
    newest = checkpoint_files.checkpoints_in(run / "checkpoints")[0]
    assert f"at step {checkpoint_files.step_of(newest)}" in errors[1 - reader]


def test_foreign_checkpoint_is_refused_with_the_differences_and_harmless_changes_are_logged(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_run.pretrain(small_config(shards, steps=3), tmp_path)
    with pytest.raises(UserError, match=r"seed: the checkpoint has 3, now 4") as raised:
        engine_run.pretrain(small_config(shards, steps=5, seed=4, data__lanes=4), tmp_path)
    assert "data.lanes: the checkpoint has 2, now 4" in str(raised.value)
    capsys.readouterr()
    engine_run.pretrain(small_config(shards, steps=4, engine__zero_stage=1), tmp_path)
    told_changes = capsys.readouterr().err
    assert "changed since the checkpoint: steps: 3 -> 4" in told_changes
    assert "engine.zero_stage: 0 -> 1" in told_changes
    with pytest.raises(UserError, match=r"\(37, 1\), which is float32 of shape \(38, 1\) in this model. Restore"):
        engine_run.pretrain(small_config(shards, steps=5, objective__prototypes=38), tmp_path)
    weighted = [{"root": str(shards), "weight": 2.0}]
    with pytest.raises(UserError, match="the weights differ from those"):
        engine_run.pretrain(small_config(shards, steps=5, data__sources=weighted), tmp_path)
    tensors, config, step = read_part(tmp_path)
    assert step == 4 and config.steps == 4 and "backbone.cls_token" in tensors
    again = engine_run.pretrain(small_config(shards, steps=4), tmp_path)
    assert again["loss"] == json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert "all 4 steps are done" in capsys.readouterr().err
