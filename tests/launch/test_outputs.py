"""Output that cannot be written ends a command with one message and status 2, and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.launch.made_runs import MadeRun
from tests.shards import media
from trichord.launch import cli

LONG = "n" * 300
# Commands that write; OUT is replaced by a place that cannot be written, or in which there is no room.
COMMANDS = {
    "build": "shards build folder --root clips --out OUT --workers 1",
    "index": "shards index built/all --out OUT",
    "draw": "shards draw built/all --per-class 1 --out OUT",
    "show": "shards show built/all --out OUT.png",
    "synthetic": "shards synthetic --samples 1 --workers 1 --out OUT",
    "html": "plot run --out OUT.html",
    "png": "plot run --out OUT.png",
    "svg": "plot run --out OUT.svg",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips, shards built from it, a run, and a file where a folder is expected."""
    place = tmp_path_factory.mktemp("outputs")
    for label in ("jump", "run"):
        (place / "clips" / label).mkdir(parents=True)
        (place / "clips" / label / "clip.mp4").write_bytes(media.clip(8))
    run = MadeRun(place / "run")
    rows = ({"step": step, "steps": 3, "run_s": 1.0, "loss": 1 / (step + 1)} for step in range(3))
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "file").write_text("a file")
    words = f"shards build folder --root {place / 'clips'} --out {place / 'built'} --workers 1".split()
    assert cli.main(words) == 0
    return place


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "error: " in message
    return message


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
@pytest.mark.parametrize("out", ["file/below", f"{LONG}/below"], ids=["below a file", "long name"])
def test_place_that_cannot_be_written_is_named(
    command: str, out: str, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stage)
    before = contents(stage)
    assert out.partition("/")[0] in refused(command.replace("OUT", out).split(), capsys)
    assert contents(stage) == before


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_full_disk_leaves_no_half_written_file(
    command: str, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(stage)
    monkeypatch.setattr(os, "fsync", no_room)
    out = str(tmp_path / "made")
    message = refused(command.replace("OUT", out).split(), capsys)
    assert "No space left on device" in message
    assert out in message
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("command", ["html", "png", "svg", "show"])
def test_folder_in_place_of_a_file_is_named(
    command: str, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stage)
    words = COMMANDS[command].replace("OUT", str(tmp_path / "made")).split()
    Path(words[-1]).mkdir()
    assert words[-1] in refused(words, capsys)
    assert os.listdir(tmp_path) == [Path(words[-1]).name]


@pytest.mark.parametrize("words", [["show"], ["show", "svt_paper", "--json"]])
def test_full_standard_output_ends_with_one_message(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "trichord", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device\nNext: free some space, or write to another disk\n"


def test_long_name_that_the_disk_allows_is_written(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stage)
    out = tmp_path / ("n" * 240 + ".html")
    assert cli.main(["plot", "run", "--out", str(out)]) == 0
    assert out.is_file()


@pytest.mark.parametrize("name", [LONG, "file/below", "loop"])
@pytest.mark.parametrize(
    "command", ["status", "logs", "plot", "compare", "cancel", "evaluate", "export", "shards show", "pretrain", "show"]
)
def test_place_of_input_that_cannot_exist_is_named(
    command: str, name: str, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stage)
    loop = stage / "loop"
    if not loop.is_symlink():
        loop.symlink_to("loop")
    refused([*command.split(), f"{name}.yaml" if command in ("pretrain", "show") else name], capsys)
