"""A broken run folder is shown as broken, with the reason, and does not stand in the way of the runs beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch.fake_slurm import SACCT, SQUEUE, FakeSlurm
from tests.launch.made_runs import NOW_S, MadeRun
from trichord.launch import cli
from trichord.pretrain.engine.checkpoint_files import LATEST, point_at

RUNS, BROKEN = Path("runs"), Path("runs/broken")
STARTED = {"time_s": NOW_S, "job_id": "62", "event": "started", "restarts": 0, "why": "", "nodes": "n1", "pid": 9}
FIGURES = {"step": 9, "steps": 100, "time_s": NOW_S, "eta_s": 90.0, "clips_per_s": 64.5}
HOLDER = {"token": "t", "job_id": None, "restarts": 0, "host": "h", "machine": "", "pid": 1, "started": "1"}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    fake = FakeSlurm(tmp_path / ".bin", monkeypatch)
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", SACCT)
    return fake


def line(name: str, row: dict[str, Any], **changes: object) -> Callable[[Path], None]:
    return text(name, json.dumps({**row, **changes}))


def text(name: str, content: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with (run / name).open("a") as file:
            file.write(content + "\n")

    return change


def folder(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def sparse(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with (run / name).open("ab") as file:
            file.truncate(6 << 30)

    return change


def loop(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(name)

    return change


BREAKAGES = {
    "history deep": (text("history.jsonl", DEEP), "history.jsonl, line 3: it is nested deeper than 64 levels"),
    "history text for a number": (
        line("history.jsonl", STARTED, time_s="noon"),
        "history.jsonl, line 3: started.time_s",
    ),
    "history NaN": (line("history.jsonl", STARTED, time_s=float("nan")), "NaN, which is not finite"),
    "history 1e300": (line("history.jsonl", STARTED, time_s=1e300), "history.jsonl, line 3: started.time_s"),
    "history half a character": (line("history.jsonl", STARTED, why="\ud800"), "half of a surrogate pair"),
    "history of many digits": (text("history.jsonl", "1" * 5000), "a number has 5000 digits"),
    "history wrong job": (line("history.jsonl", STARTED, job_id="../../x"), "history.jsonl, line 3: started.job_id"),
    "history folder": (folder("history.jsonl"), "history.jsonl: it is a folder"),
    "history pipe": (pipe("history.jsonl"), "history.jsonl: it is a pipe"),
    "history sparse": (sparse("history.jsonl"), "history.jsonl: it has 6,442,450,944 bytes"),
    "history loop": (loop("history.jsonl"), "history.jsonl: Too many levels of symbolic links"),
    "figures deep": (text("metrics.jsonl", '{"step": 1, "x": ' + "[" * 900 + "]" * 900 + "}"), "deeper than 64"),
    "figures text for a number": (line("metrics.jsonl", FIGURES, steps="many"), "metrics.jsonl: steps"),
    "figures text for a step": (line("metrics.jsonl", FIGURES, step="last"), "metrics.jsonl: step"),
    "figures NaN": (line("metrics.jsonl", FIGURES, eta_s=float("nan")), "NaN, which is not finite"),
    "figures 1e300": (line("metrics.jsonl", FIGURES, eta_s=1e300), "metrics.jsonl: eta_s"),
    "figures zero steps": (line("metrics.jsonl", FIGURES, steps=0), "metrics.jsonl: steps"),
    "figures folder": (folder("metrics.jsonl"), "metrics.jsonl: it is a folder"),
    "figures pipe": (pipe("metrics.jsonl"), "metrics.jsonl: it is a pipe"),
    "figures sparse": (sparse("metrics.jsonl"), "metrics.jsonl: its last 64 KiB hold no complete line"),
    "lock folder": (folder("lock"), "lock: it is a folder"),
    "lock pipe": (pipe("lock"), "lock: it is a pipe"),
    "lock sparse": (sparse("lock"), "lock: it has 6,442,450,944 bytes"),
    "lock wrong types": (line("lock", HOLDER, pid="first"), "lock: pid"),
    "config folder": (folder("config.yaml"), "config.yaml: it is a folder"),
    "config pipe": (pipe("config.yaml"), "config.yaml: it is a pipe"),
}


@pytest.mark.parametrize(("break_it", "why"), BREAKAGES.values(), ids=list(BREAKAGES))
def test_broken_run_is_shown_with_the_reason_beside_the_others(
    break_it: Callable[[Path], None], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (MadeRun(RUNS / "a"), MadeRun(BROKEN), MadeRun(RUNS / "c")):
        run.submitted("62").started("62").figures(25)
    break_it(BROKEN)
    assert cli.main(["status", "--json"]) == 0
    found = {row["run"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {name: row["state"] for name, row in found.items()} == {
        "runs/a": "running",
        "runs/broken": "broken",
        "runs/c": "running",
    }
    assert why in found["runs/broken"]["why"] and why in found["runs/broken"]["last_error"]
    assert cli.main(["status", "runs/broken"]) == 0
    assert why in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    "break_it",
    [
        line("history.jsonl", STARTED, event="paused"),  # of a later version
        text("history.jsonl", '{"time_s": 1.5, "job'),  # torn by a kill
        text("metrics.jsonl", '{"step": 1, "loss'),
        lambda run: (run / "checkpoints").write_text("no folder"),
        lambda run: (run / "logs").symlink_to("logs"),
        lambda run: (run / "logs").mkdir() or os.mkfifo(run / "logs" / "62_0_error.json"),
    ],
    ids=["later event", "torn event", "torn figures", "checkpoints", "logs", "error"],
)
def test_what_a_kill_or_a_later_version_leaves_is_not_broken(
    break_it: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    MadeRun(RUNS / "a").submitted("62").started("62").figures(25)
    break_it(RUNS / "a")
    assert cli.main(["status", "runs/a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["state"] == "running"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("a: " + "[" * 5000, "nested deeper than 64 levels"),
        ("objective: svt", "trichord pretrain"),
        ("objective: {kind: [1]}", "trichord pretrain"),
        ("base: {a: 1}", "trichord pretrain"),
    ],
)
def test_details_of_a_run_with_a_broken_config_are_shown(
    config: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = MadeRun(RUNS / "a").figures(10).checkpoint(10)
    (run.path / "config.yaml").write_text(config)
    assert cli.main(["status", "runs/a"]) == 0
    assert problem in capsys.readouterr().out


@pytest.mark.parametrize("settings", ["[]", '{"settings": 5}', '{"settings": {"sbatch": 5}}', DEEP, "\xff"])
def test_broken_snapshot_is_left_out_of_the_next_command(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "a").submitted("68").started("68")
    file = run.path / "snapshots" / "001" / "launch.json"
    file.parent.mkdir(parents=True)
    file.write_text(settings, encoding="latin-1")
    assert cli.main(["status", "runs/a"]) == 0
    assert "next: trichord launch pretrain svt seed=1" in capsys.readouterr().out


def test_the_other_runs_are_cancelled(fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "broken", "c"):
        MadeRun(RUNS / name).submitted("62").started("62")
    folder("history.jsonl")(BROKEN)
    assert cli.main(["cancel", "runs/a", "runs/broken", "runs/c"]) == 0
    assert fake.asked("scancel") == ["--signal=USR1 62"] * 2
    assert "runs/broken: nothing to do, it is broken" in capsys.readouterr().out


def test_job_of_a_broken_run_can_be_cancelled(fake: FakeSlurm) -> None:
    MadeRun(BROKEN).submitted("62").started("62")
    sparse("metrics.jsonl")(BROKEN)
    assert cli.main(["cancel", "runs/broken"]) == 0
    assert fake.asked("scancel") == ["--signal=USR1 62"]


@pytest.mark.parametrize("break_it", [folder("history.jsonl"), sparse("metrics.jsonl"), text("history.jsonl", DEEP)])
def test_log_of_a_broken_run_is_shown(break_it: Callable[[Path], None], capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(BROKEN).submitted("62").started("62").log(0, "one\ntwo\n")
    break_it(BROKEN)
    assert cli.main(["logs", "runs/broken"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_end_of_a_log_without_lines_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "a").submitted("61").started("61").ended("finished", job_id="61").log(0, "one\n", "61")
    sparse("logs/61_0_log.out")(run.path)
    with (run.path / "logs/61_0_log.out").open("ab") as file:
        file.write(b"end\n")
    assert cli.main(["logs", "runs/a"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("end\n")
    assert len(shown) < 1 << 24


@pytest.mark.parametrize("break_it", [folder("logs/62_0_log.out"), pipe("logs/62_0_log.out")])
def test_log_that_is_no_file_is_refused(break_it: Callable[[Path], None], capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "a").submitted("62").started("62").log(0, "one\n")
    break_it(RUNS / "a")
    assert cli.main(["logs", "runs/a"]) == 2
    assert "62_0_log.out" in capsys.readouterr().err


def test_latest_of_any_form_is_replaced(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step_00000010"
    checkpoint.mkdir(parents=True)
    latest = checkpoint.parent / LATEST
    for make in (lambda: latest.write_bytes(b"\xff\xfe"), latest.mkdir, lambda: os.mkfifo(latest)):
        make()
        point_at(checkpoint)
        assert latest.read_text() == "step_00000010\n"
        latest.unlink()


REPORT = {
    "run": "a",
    "model": dict.fromkeys(("pretrained", "backbone", "inputs", "head", "trained", "seed"), 1),
    "data": ["s"],
    "clips": 3,
    "step": 10,
    "metrics": {"top1": 0.5},
}


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        "{}",
        '{"run": 5}',
        json.dumps({**REPORT, "metrics": [1]}),
        json.dumps({**REPORT, "model": {}}),
        "\xff",
    ],
)
def test_evaluations_are_compared_without_broken_ones(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in {"a": json.dumps(REPORT), "broken": content}.items():
        path = RUNS / name / "evaluations" / "s.json"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="latin-1")
    assert cli.main(["compare", "runs/a", "runs/broken", "--json"]) == 1
    shown = capsys.readouterr()
    assert [row["top1"] for row in json.loads(shown.out)["rows"]] == [0.5]
    assert "warning: left out: runs/broken/evaluations/s.json" in shown.err
    assert cli.main(["compare", "runs/broken"]) == 2
    assert "runs/broken/evaluations/s.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "break_it", [folder("metrics.jsonl"), pipe("metrics.jsonl"), sparse("metrics.jsonl"), loop("metrics.jsonl")]
)
def test_runs_are_plotted_without_broken_ones(
    break_it: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "broken"):
        run = MadeRun(RUNS / name)
        (run.path / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "loss": {1 / (n + 1)}}}\n' for n in range(3)))
    break_it(BROKEN)
    assert cli.main(["plot", "runs/a", "runs/broken", "--out", "curves.html", "--json"]) == 1
    shown = capsys.readouterr()
    assert [row["run"] for row in json.loads(shown.out)["rows"]] == ["a"]
    assert "warning: left out: runs/broken" in shown.err
    assert Path("curves.html").is_file()


@pytest.mark.parametrize(
    "row", ["[" * 900 + "]" * 900, '{"step": 1, "loss": NaN}', '{"step": 1, "loss": ' + "9" * 5000 + "}"]
)
def test_damaged_lines_of_figures_are_skipped(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "a")
    lines = ['{"step": 0, "loss": 2.0}', row, '{"step": 2, "loss": 1e300}', '{"step": 3, "loss": "text"}']
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for kind in ("html", "svg"):
        assert cli.main(["plot", "runs/a", "--out", f"curves.{kind}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"][0]["log_lines"] == 3
