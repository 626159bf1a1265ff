"""The metrics of a run: the cost of a step, the files of a killed run, and the printed line."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trichord.core.errors import Cause, UserError
from trichord.pretrain.engine.config import LogConfig
from trichord.pretrain.engine.metrics import Meter, Recorder, WindowMeans, Workload
from trichord.pretrain.engine.trackers import FILE_NAME, duration, read_rows, step_line
from trichord.shards.reading.batch import BadSample, Batch, Timeline

CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when it is advanced."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


def batch_of(samples: int, bad: int = 0, silent: int | None = None) -> Batch:
    return Batch(
        video=[],
        audio=[] if silent is None else [torch.zeros(samples, 2, 2)],
        audio_present=torch.tensor([index >= (silent or 0) for index in range(samples)]),
        valid=torch.ones(samples, dtype=torch.bool),
        text=[""] * samples,
        labels=[()] * samples,
        key=["k"] * samples,
        shard=["s"] * samples,
        source=[0] * samples,
        position=[-1] * samples,
        timeline=[Timeline()] * samples,
        step=0,
        bad=[BadSample("s", "k", Cause.CODEC, "")] * bad,
        left_out=[],
        surplus=0,
    )


def do_step(meter: Meter, clock: Clock, wait_s: float, work_s: float, batch: Batch) -> None:
    with meter.waiting():
        clock.pass_s(wait_s)
    meter.count(batch)
    clock.pass_s(work_s)
    meter.step_done()


def metered(work: Workload) -> tuple[Meter, Clock]:
    """A meter past the slow first steps of a start."""
    clock = Clock()
    meter = Meter(work, CPU, clock)
    for _ in range(2):
        do_step(meter, clock, 3.0, 40.0, batch_of(0))
    return meter, clock


def test_figures_of_a_window_equal_those_computed_by_hand() -> None:
    meter, clock = metered(Workload(steps=1000, batch_size=8, flops_per_step=3e9, peak_flops=1e10))
    assert meter.figures(1)["warm_up_s"] == 86.0
    for wait_s, work_s in ((0.25, 0.75), (0.75, 0.75), (0.0, 0.5)):  # 3 s in 3 steps, 1 s of them waiting
        do_step(meter, clock, wait_s, work_s, batch_of(8, bad=1, silent=2))
    figures = meter.figures(4)
    memory_gib = figures.pop("memory_gib")
    assert isinstance(memory_gib, float) and 0.01 < memory_gib < 100
    assert figures == {
        "step": 4,
        "steps": 1000,
        "samples": 40,
        "clips_per_s": 8.0,
        "clips_per_s_device": 8.0,
        "step_s": 1.0,
        "worst_step_s": 1.5,
        "data_wait_share": pytest.approx(1 / 3),
        "mfu": pytest.approx(0.3),
        "bad_share": 3 / 24,
        "silent_share": 6 / 24,
        "aside_s": 0.0,
        "warm_up_s": 0.0,
        "eta_s": 995.0,
    }


def test_first_steps_after_a_start_do_not_count_as_throughput() -> None:
    meter, _ = metered(Workload(steps=10, batch_size=8))
    figures = meter.figures(1)
    assert figures["warm_up_s"] == 86.0
    for name in ("clips_per_s", "clips_per_s_device", "step_s", "worst_step_s", "data_wait_share", "mfu", "eta_s"):
        assert figures[name] is None, name


def test_saving_and_evaluating_are_reported_apart_from_steps_and_delay_the_end() -> None:
    meter, clock = metered(Workload(steps=102, batch_size=8))
    meter.figures(1)
    for _ in range(4):
        do_step(meter, clock, 0.0, 1.0, batch_of(8))
    with meter.aside():
        clock.pass_s(6.0)
    do_step(meter, clock, 0.0, 1.0, batch_of(8))
    figures = meter.figures(6)
    assert (figures["step_s"], figures["worst_step_s"], figures["aside_s"]) == (1.0, 1.0, 6.0)
    assert figures["eta_s"] == pytest.approx((102 - 7) * 11 / 5)


def test_data_without_sound_has_no_share_of_silent_clips() -> None:
    meter, clock = metered(Workload(steps=10, batch_size=4))
    do_step(meter, clock, 0.0, 1.0, batch_of(4))
    figures = meter.figures(2)
    assert figures["bad_share"] == 0.0
    assert figures["silent_share"] is None


def two_ranks(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    meter, clock = metered(Workload(steps=100, batch_size=8))
    meter.figures(1)
    do_step(meter, clock, 0.1 if rank == 0 else 1.5, 1.9 if rank == 0 else 0.5, batch_of(4, bad=rank, silent=rank))
    means = WindowMeans(CPU)
    for value in (1.0, 3.0):
        means.add({"loss": torch.tensor(value + 10 * rank)})
    means.add({"rare": torch.tensor(float(rank))})
    Path(folder, f"{rank}.json").write_text(json.dumps([meter.figures(2), means.take()]))
    dist.destroy_process_group()


def test_figures_cover_all_ranks_and_the_wait_is_the_longest(tmp_path: Path) -> None:
    mp.start_processes(two_ranks, (str(tmp_path),), nprocs=2, start_method="spawn")
    (first, first_means), (second, second_means) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert first == second
    assert (first["clips_per_s"], first["clips_per_s_device"]) == (pytest.approx(4.0), pytest.approx(2.0))
    assert first["data_wait_share"] == pytest.approx(0.75)
    assert (first["bad_share"], first["silent_share"]) == (1 / 8, 1 / 8)
    assert first_means == second_means == {"loss": (1 + 3 + 11 + 13) / 4, "rare": 0.5}


def test_means_cover_one_window_each() -> None:
    means = WindowMeans(CPU)
    assert means.take() == {}
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value), "health": torch.tensor(value > 1)})
    assert means.take() == {"health": pytest.approx(2 / 3), "loss": 3.0}
    means.add({"loss": torch.tensor(5.0)})
    assert means.take() == {"loss": 5.0}


def write_steps(run: Path, steps: range, start_step: int, value: float) -> None:
    recorder = Recorder(run, LogConfig(), start_step)
    for step in steps:
        recorder.write({"step": step, "loss": value})
    recorder.close()


def test_row_is_flushed_immediately(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", LogConfig(), 0)
    recorder.write({"step": 0, "steps": 5, "loss": 2.5, "mfu": None})
    (row,) = read_rows(tmp_path / "run" / FILE_NAME)
    assert row.pop("time_s") > 1.7e9
    assert 0 <= row.pop("run_s") < 60
    assert row == {"step": 0, "steps": 5, "loss": 2.5, "mfu": None}
    recorder.close()


def test_resume_drops_repeated_steps_and_the_torn_line(tmp_path: Path) -> None:
    write_steps(tmp_path, range(8), 0, 1.0)
    path = tmp_path / FILE_NAME
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    write_steps(tmp_path, range(6, 10), 6, 2.0)
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [
        *((step, 1.0) for step in range(6)),
        *((step, 2.0) for step in range(6, 10)),
    ]
    assert all(json.loads(line) for line in path.read_text().splitlines()), "no torn line stays"
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_seconds_of_a_run_continue_after_a_resume(tmp_path: Path) -> None:
    rows = [{"step": 0, "run_s": 1000.0}, {"step": 1, "run_s": 2000.0}]
    (tmp_path / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_steps(tmp_path, range(1, 2), 1, 1.0)
    assert 1000 <= list(read_rows(tmp_path / FILE_NAME))[-1]["run_s"] < 1060


def test_non_finite_figure_leaves_valid_json_and_is_named(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1), 0, float("nan"))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads((tmp_path / FILE_NAME).read_text(), parse_constant=refuse)
    assert row["loss"] is None
    assert row["not_finite"] == ["loss"]


def test_tensorboard_has_the_same_figures_after_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps, start_step, value in ((range(8), 0, 1.0), (range(6, 10), 6, 2.0)):
        recorder = Recorder(tmp_path, LogConfig(tensorboard=True), start_step)
        for step in steps:
            recorder.write({"step": step, "loss": value, "mfu": None, "broken": float("inf")})
        recorder.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    scalars = [(event.step, event.value) for event in events.Scalars("loss")]
    assert scalars == [*((step, 1.0) for step in range(6)), *((step, 2.0) for step in range(6, 10))]


class FakeWandb(types.ModuleType):
    """The used part of wandb, which records its calls."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.errors = types.SimpleNamespace(Error=self.Error)
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.fails = False

    def init(self, **options: Any) -> Any:
        if self.fails:
            raise self.Error("no API key configured")
        self.inits.append(options)
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        run_id = options["id"] or "x7"
        return types.SimpleNamespace(id=run_id, define_metric=nothing, log=self.logged.append, finish=nothing)


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_resumed_run_continues_with_its_wandb_id(tmp_path: Path, fake_wandb: FakeWandb) -> None:
    for start_step in (0, 1):
        recorder = Recorder(tmp_path / "run", LogConfig(wandb_project="clips"), start_step, {"seed": 3})
        recorder.write({"step": start_step, "loss": 1.5, "mfu": None})
        recorder.close()
    first, second = fake_wandb.inits
    assert (first["project"], first["id"], first["name"], first["config"]) == ("clips", None, "run", {"seed": 3})
    assert (second["id"], second["resume"]) == ("x7", "allow")
    assert fake_wandb.logged == [{"step": 0, "loss": 1.5}, {"step": 1, "loss": 1.5}]


def test_failed_wandb_start_is_an_error_with_a_remedy(tmp_path: Path, fake_wandb: FakeWandb) -> None:
    fake_wandb.fails = True
    with pytest.raises(UserError, match=r"no API key configured\nNext: wandb login; .* WANDB_MODE=offline"):
        Recorder(tmp_path, LogConfig(wandb_project="clips"), 0)


@pytest.mark.parametrize(
    ("config", "missing", "package"),
    [
        (LogConfig(tensorboard=True), "torch.utils.tensorboard", "tensorboard"),
        (LogConfig(wandb_project="clips"), "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: LogConfig, missing: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        Recorder(tmp_path, config, 0)


ROW = {
    "step": 12345,
    "steps": 100000,
    "samples": 12641280,
    "loss": 8.731249,
    "loss/global": 9.0112,
    "loss/local": 8.6612,
    "learning_rate": 0.00042,
    "clips_per_s": 3291.4,
    "clips_per_s_device": 411.42,
    "step_s": 0.3111,
    "worst_step_s": 0.71,
    "data_wait_share": 0.0312,
    "mfu": 0.4712,
    "memory_gib": 61.24,
    "bad_share": 0.0012,
    "silent_share": 0.125,
    "aside_s": 0.0,
    "warm_up_s": 0.0,
    "eta_s": 27268.0,
    "teacher_entropy": 3.2,
}


def test_line_of_a_step() -> None:
    line = step_line(ROW)
    assert line == (
        "step  12346/100000 12.3%  loss 8.731  global 9.011  local 8.661  lr 4.2e-04  3291 clips/s (411 each)  "
        "0.311 s  wait 3.1%  MFU 47%  61.2 GiB  bad 0.12%  silent 12%  7h34m left"
    )
    assert len(line) <= 180


def test_line_omits_unknown_figures_and_fits_any_number_of_losses() -> None:
    first = {"step": 0, "steps": 50, "loss": float("nan"), "clips_per_s": None, "mfu": None, "memory_gib": 1.0}
    assert step_line(first) == "step  1/50 2.0%  loss nan  1.0 GiB"
    many = {**ROW, **{f"loss/part_{number}": 1.0 for number in range(40)}}
    assert len(step_line(many)) < len(step_line(ROW)) + 20


def test_durations_have_two_units() -> None:
    assert [duration(seconds) for seconds in (0.25, 59.4, 61, 7_265, 200_000)] == [
        "0.2s",
        "59s",
        "1m01s",
        "2h01m",
        "2d07h",
    ]
