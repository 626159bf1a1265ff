"""`trichord logs` shows the end of the log of a rank, and follows it until its job has ended."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from pathlib import Path

import pytest

from tests.launch.fake_slurm import SQUEUE, FakeSlurm
from tests.launch.made_runs import MadeRun
from tests.warm import HANGS_AFTER_S
from trichord.launch import cli, logs
from trichord.launch.logs import follow_log

RUN = Path("runs/one")


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.01)
    fake = FakeSlurm(tmp_path / ".bin", monkeypatch)
    fake.answers("squeue", SQUEUE)
    return fake


def show(*words: str) -> int:
    return cli.main(["logs", str(RUN), *words])


def test_default_is_rank_0_of_the_newest_job(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUN).submitted("61").log(0, "old\n", "61").submitted("62").started("62")
    run.log(0, "one\ntwo\nthree\n").log(1, "other\n")
    assert show() == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    assert show("--rank", "1") == 0
    assert capsys.readouterr().out == "other\n"
    assert show("--job", "61") == 0
    assert capsys.readouterr().out == "old\n"


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\nc\n", 9, "a\nb\nc\n"),
        ("a\nb\n", 0, ""),
        ("", 5, ""),
        ("long" * 50_000 + "\nz\n", 1, "z\n"),
        ("x\n" + "long" * 50_000 + "\n", 1, "long" * 50_000 + "\n"),
        ("ä\n" * 70_000, 2, "ä\nä\n"),
    ],
)
def test_lines_option_limits_the_lines_from_the_end(
    text: str, lines: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    MadeRun(RUN).submitted("62").started("62").log(0, text)
    assert show("--lines", str(lines)) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rank", "7"], "no log of rank 7. Its ranks: 0, 1"),
        (["--rank", "7", "--follow"], "no log of rank 7"),
        (["--job", "5"], "There are logs of: 62"),
    ],
)
def test_missing_log_is_answered_with_the_existing_ones(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    MadeRun(RUN).submitted("62").started("62").log(0, "a\n").log(1, "b\n")
    assert show(*words) == 2
    assert expected in capsys.readouterr().err


def test_without_logs_yet_the_next_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUN).submitted("64")
    assert show() == 2
    assert "trichord logs runs/one --follow" in capsys.readouterr().err
    assert show("--follow", "--rank", "2") == 2
    assert "no rank 2. Its ranks: 0, 1" in capsys.readouterr().err


def test_run_without_logs_and_sweep_suggest_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUN).figures(10)
    assert show() == 2
    assert "not started by `trichord launch`" in capsys.readouterr().err
    assert cli.main(["logs", "runs"]) == 2
    assert "runs holds several runs. Name one:\n  runs/one" in capsys.readouterr().err


def test_each_run_of_a_sweep_shows_its_own_logs(capsys: pytest.CaptureFixture[str]) -> None:
    first = MadeRun(RUN).submitted("70_0").log(0, "zero\n", "70_0")
    second = MadeRun(Path("runs/two")).submitted("70_1").log(0, "one\n", "70_1")
    for path in (second.path / "logs").iterdir():
        path.rename(first.path / "logs" / path.name)
    (second.path / "logs").rmdir()
    (second.path / "logs").symlink_to(Path("../one/logs"))
    for name, expected in (("one", "zero\n"), ("two", "one\n")):
        assert cli.main(["logs", f"runs/{name}"]) == 0
        assert capsys.readouterr().out == expected


def test_following_continues_across_a_restart_until_the_job_ends(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_log, "__defaults__", (0.02,))
    out, err = io.StringIO(), io.StringIO()
    run = MadeRun(RUN).submitted("62")
    fake.answers("squeue", "62|PENDING|Resources|\n")

    def live() -> None:
        wait_for("waiting for runs/one/logs/62_0_log.out; runs/one is queued: waiting: Resources", err)
        fake.answers("squeue", "62|RUNNING|None|n1\n")
        run.started().log(0, "first sta")
        wait_for("first sta", out)
        run.log(0, "rt\n").ended("requeued", "the time limit was near")
        fake.answers("squeue", "62|PENDING|BeginTime|\n")
        wait_for("first start\n", out)
        fake.answers("squeue", "62|RUNNING|None|n1\n")
        run.started(restarts=1).log(0, "second start\n")
        run.log(0, "the end\n").ended("finished", restarts=1)

    thread = threading.Thread(target=live)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        thread.start()
        assert show("--follow") == 0
    thread.join()
    assert out.getvalue() == "first start\nsecond start\nthe end\n"
    assert err.getvalue().endswith("runs/one is finished\n")


def wait_for(text: str, stream: io.StringIO) -> None:
    """Wait until a text has been printed."""
    end_s = time.monotonic() + HANGS_AFTER_S
    while text not in stream.getvalue() and time.monotonic() < end_s:
        time.sleep(0.005)
    assert text in stream.getvalue()


def test_following_an_ended_job_shows_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUN).submitted("62").started("62").log(0, "a\nb\n").ended("finished")
    assert show("--follow", "--lines", "1") == 0
    assert capsys.readouterr().out == "b\n"


def test_character_split_between_two_reads_is_decoded(tmp_path: Path) -> None:
    log, letter = tmp_path / "log", "ä".encode()
    log.write_bytes(letter[:1])
    parts = follow_log(log, 10, lambda: True, 100.0)
    assert next(parts) == ""
    with log.open("ab") as file:
        file.write(letter[1:])
    assert next(parts) == "ä"
    log.write_bytes(b"")  # started again
    log.write_bytes(b"b")
    assert next(parts) == "b"
