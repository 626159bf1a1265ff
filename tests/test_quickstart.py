"""The quickstart runs real commands, can be repeated, and reports a failed step."""

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
from tests.folders import write_shadowing_modules
from tests.warm import HANGS_AFTER_S
from trichord.launch import cli, quickstart

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _steps_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the process of each step with warm imports."""

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert list(command[:3]) == [sys.executable, "-m", "trichord"]
        done = warm.run(command[2:], Path.cwd(), timeout=HANGS_AFTER_S)
        sys.stderr.write(done.stderr)
        return done

    monkeypatch.setattr(quickstart.subprocess, "run", run)


def test_figures_beat_their_controls_and_a_second_run_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_shadowing_modules(tmp_path)
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
    for step in quickstart.steps(out, 20)[:2]:  # the two steps that write; the others are equally fast the second time
        quickstart._figures_of(step)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_steps_are_existing_commands(tmp_path: Path) -> None:
    parser = cli._parser()
    for words in [step.words for step in quickstart.steps(tmp_path, 20)]:
        arguments, unknown = parser.parse_known_args(words)
        assert unknown == []
        assert arguments.run is not None


def test_failed_step_stops_the_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep)
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "something").write_text("else")
    assert cli.main(["quickstart", "--out", str(tmp_path), "--samples", "20"]) == 2
    assert "the step synthetic ended with status 2" in capfd.readouterr().err
    assert not (tmp_path / "shards").exists()
