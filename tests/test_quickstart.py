"""The quickstart runs real commands, may be repeated, and says plainly when a step fails."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import warm
from tests.folders import names_of_ones_own
from tests.warm import HANGS_AFTER_S
from trichord.launch import cli, quickstart

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _steps_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step's process have imported before what takes it seconds."""

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert list(command[:3]) == [sys.executable, "-m", "trichord"]
        done = warm.run(command[2:], Path.cwd(), timeout=HANGS_AFTER_S)
        sys.stderr.write(done.stderr)
        return done

    monkeypatch.setattr(quickstart.subprocess, "run", run)


def test_every_figure_meets_its_control_and_a_second_run_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names_of_ones_own(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "quick"
    command = ["quickstart", "--out", str(out), "--samples", "20", "--json"]
    assert cli.main(command) == 0
    shown = capfd.readouterr()
    rows = json.loads(shown.out)["rows"]
    for row in rows:
        if row["relation"] == "is":
            assert row["value"] == row["control"], row
        if row["figure"].startswith("loss"):
            assert row["value"] < row["control"], row
        if row["relation"] == "beside":
            assert 0 <= row["value"] <= 1 and 0 <= row["control"] <= 1, row
    assert [row["figure"] for row in rows if row["relation"] == "beside"] == [
        "actions of unseen clips, mAP",
        "captions of unseen clips, BLEU-4",
    ]
    for step in quickstart.steps(out, 20):
        assert f"$ trichord {shlex.join(step.words)}" in shown.err
    assert (out / "run/teacher.safetensors").is_file() and (out / "curves.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".mp4", ".tar")}
    for step in quickstart.steps(out, 20)[:2]:  # the two that write; the others are as quick the second time
        quickstart._figures_of(step)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_steps_are_commands_that_exist(tmp_path: Path) -> None:
    parser = cli._parser()
    for words in [step.words for step in quickstart.steps(tmp_path, 20)]:
        arguments, unknown = parser.parse_known_args(words)
        assert unknown == []
        assert arguments.run is not None


def test_a_step_that_fails_stops_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "something").write_text("else")
    assert cli.main(["quickstart", "--out", str(tmp_path), "--samples", "20"]) == 2
    assert "the step world ended with status 2" in capfd.readouterr().err
    assert not (tmp_path / "shards").exists()
