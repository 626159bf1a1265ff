"""A build in parts: the same files as in one job, a manifest once all are there, and no interference."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.shards import media
from trichord.core.errors import UserError
from trichord.core.parser import CommandParser
from trichord.launch import cli
from trichord.shards.building.job import BuildJob
from trichord.shards.building.transcode import Preset
from trichord.shards.building.write import build
from trichord.shards.commands import COMMANDS
from trichord.shards.reading.manifest import Manifest

ROOT = Path(__file__).resolve().parents[3]
SPLITS = {"train": 11, "val": 2, "test": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    lines = ["path,split"]
    for split, count in SPLITS.items():
        for number in range(count):
            (root / f"{split}{number}.mp4").write_bytes(media.clip(8 + number, seed=number, sound=number % 2 == 0))
            lines.append(f"{split}{number}.mp4,{split}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


def files(out: Path) -> dict[str, str]:
    """Return digests of all files except reports, which contain their folder."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "build.json"
    }


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "build.json").read_text())
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"samples_per_shard": 2},
        {"mode": "encode", "preset": Preset(short_side=16, speed="ultrafast"), "bytes_per_shard": 9000},
    ],
)
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_equal_one_build(
    options: dict[str, Any], order: tuple[int, ...], dataset: Path, tmp_path: Path
) -> None:
    build("csv", dataset, tmp_path / "whole", workers=1, **options)
    for number in order:
        build("csv", dataset, tmp_path / "parts", workers=1, part=(number, 3), **options)
        assert report(tmp_path / "parts" / "train")["finished"] == (number == order[-1])
    found = files(tmp_path / "parts")
    assert sum(name.endswith(".tar") for name in found) >= 5
    assert found == files(tmp_path / "whole")
    for split in SPLITS:
        whole, parts = report(tmp_path / "whole" / split), report(tmp_path / "parts" / split)
        assert parts["finished"] and {**parts, "folder": ""} == {**whole, "folder": ""}


def test_parts_are_equal_over_all_splits_together(dataset: Path, tmp_path: Path) -> None:
    shares = []
    for number in range(1, 5):
        out = tmp_path / str(number)
        build("csv", dataset, out, workers=1, samples_per_shard=1, part=(number, 4))
        shares.append({name for name in files(out) if name.endswith(".tar")})
    assert sorted(map(len, shares)) == [3, 3, 4, 4]
    assert len(set.union(*shares)) == sum(SPLITS.values())


def test_there_is_no_manifest_before_the_last_shard(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["shards", "build", "csv", "--root", str(dataset), "--out", str(tmp_path), "--samples-per-shard", "2"]
    words += ["--splits", "train", "--workers", "1"]
    assert cli.main([*words, "--part", "2/2"]) == 0
    assert "train: 3 of 6 shards are written; the manifest follows with the last shard" in capsys.readouterr().err
    assert not (tmp_path / "train" / "manifest.json").exists()
    found = report(tmp_path / "train")
    assert (found["finished"], found["whole_shards"], found["planned_shards"]) == (False, 3, 6)
    assert cli.main([*words, "--part", "1/2"]) == 0
    assert "are there" not in capsys.readouterr().err
    assert Manifest.load(tmp_path / "train").samples == SPLITS["train"]


def test_build_without_part_writes_the_manifest_of_existing_shards(dataset: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        build("csv", dataset, tmp_path, workers=1, samples_per_shard=2, part=(number, 2))
    before = files(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    (tmp_path / "train" / "manifest.json").unlink()
    summary = build("csv", dataset, tmp_path, workers=1, samples_per_shard=2)
    assert all(each.finished and each.reused_shards == each.planned_shards for each in summary.splits)
    assert files(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == times


def test_concurrent_parts_remove_only_files_that_they_rewrite(dataset: Path, tmp_path: Path) -> None:
    build("csv", dataset, tmp_path / "whole", workers=1, samples_per_shard=1)
    folder = tmp_path / "parts" / "train"
    folder.mkdir(parents=True)
    left = [folder / f".0000{number}.tar.elsewhere-7-7-0.partial" for number in range(2)]
    for path in left:
        path.write_bytes(b"being written by another job, or left by one that was killed")
    words = ["shards", "build", "csv", "--root", str(dataset), "--out", str(tmp_path / "parts"), "--workers", "1"]
    command = [sys.executable, "-m", "trichord", *words, "--samples-per-shard", "1"]
    assert subprocess.run([*command, "--part", "1/4"], cwd=ROOT).returncode == 0
    assert [path.exists() for path in left] == [False, True]
    others = [subprocess.Popen([*command, "--part", f"{number}/4"], cwd=ROOT) for number in (2, 3, 4)]
    assert [process.wait() for process in others] == [0, 0, 0]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_bad_clips_are_limited_in_a_part_and_over_all(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "run"
    folder.mkdir(parents=True)
    for number in range(8):
        (folder / f"{number}.mp4").write_bytes(b"" if number == 0 else media.clip(5, seed=number))
    options: dict[str, Any] = {"workers": 1, "samples_per_shard": 1, "shuffle": False}
    root, out = tmp_path / "root", tmp_path / "out"
    with pytest.raises(UserError, match=r"1 of the 4 clips of split 'all' cannot be used"):
        build("folder", root, out, part=(1, 2), max_bad_fraction=0.2, **options)
    build("folder", root, out, part=(2, 2), max_bad_fraction=0.1, **options)
    build("folder", root, out, part=(1, 2), max_bad_fraction=0.25, **options)
    assert len(report(out / "all")["skipped"]) == 1
    (out / "all" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"1 of the 8 clips of split 'all' cannot be used"):
        build("folder", root, out, part=(2, 2), max_bad_fraction=0.1, **options)
    assert not (out / "all" / "manifest.json").exists()


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4"])
def test_a_wrong_part_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shards", "build", "csv", "--root", ".", "--out", "x", f"--part={text}"]) == 2
    assert f"found '{text}', expected I/N with I from 1 to N, such as 3/16" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_interrupted_build_ends_at_once_without_partial_files_and_resumes(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    folder = tmp_path / "root" / "run"
    folder.mkdir(parents=True)
    for clip in range(6):
        (folder / f"{clip}.mp4").write_bytes(media.clip(8, seed=clip))
    (folder / "zlong.mp4").write_bytes(media.clip(400, seed=9))
    # The last shard takes half a minute, so that the signal arrives while it is written.
    options = f"mode='encode', preset=Preset(speed='placebo', short_side=480), samples_per_shard=1, workers={workers}"
    script = f"""
import signal
from pathlib import Path
from trichord.shards.building.transcode import Preset
from trichord.shards.building.write import build
class Signalled(BaseException): pass
def raise_signalled(*_): raise Signalled
if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, raise_signalled)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell has put the tests aside
    build("folder", Path({str(tmp_path / "root")!r}), Path({str(tmp_path / "out")!r}), shuffle=False, {options})
"""
    made = tmp_path / "out" / "all"
    begin = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not list(made.glob(".00006.tar.*.partial")) and process.poll() is None and time.monotonic() - begin < 90:
            time.sleep(0.02)
        process.send_signal(number)
        signalled_s = time.monotonic()
        process.wait(60)
    assert process.returncode != 0 and time.monotonic() - signalled_s < 10
    names = {path.name for path in made.iterdir()}
    assert not [name for name in names if "partial" in name]
    assert "manifest.json" not in names and "00006.tar" not in names and "00000.tar" in names
    summary = build("folder", tmp_path / "root", tmp_path / "out", shuffle=False, samples_per_shard=1, workers=1)
    assert summary.splits[0].samples == 7


# As a job


def job_of(*words: str) -> BuildJob:
    (command,) = [command for command in COMMANDS if command.name == "build"]
    parser = CommandParser(prog="trichord", declare=command.declare)
    arguments: Namespace = parser.parse_args(words)
    arguments.words = ["shards", "build", *words]
    assert command.job is not None
    job = command.job(arguments)
    assert isinstance(job, BuildJob)
    return job


def test_job_repeats_the_arguments_with_its_part(tmp_path: Path) -> None:
    words = ("csv", "--root", "videos", "--out", "sets", "--preset", "short_side=64", "--mode", "encode")
    job = job_of(*words)
    assert (job.name, job.folder, job.is_of_parts, job.saves_on_signal) == ("build-csv", Path("sets/jobs"), True, False)
    assert list(job.words(tmp_path, None)) == ["shards", "build", *words]
    part = job.within("part-003-of-016")
    assert list(part.words(tmp_path, (3, 16))) == ["shards", "build", *words, "--part", "3/16"]
    assert part.folder == Path("sets/jobs/part-003-of-016")
    assert not job_of(*words, "--part", "1/2").is_of_parts


def test_builds_of_a_sweep_write_to_separate_folders(dataset: Path, tmp_path: Path) -> None:
    words = ("csv", "--root", str(dataset), "--out", str(tmp_path), "--splits", "val")
    typed = job_of(*words).within("seed=1").words(tmp_path, None)
    assert cli.main([str(word) for word in typed]) == 0
    assert Manifest.load(tmp_path / "seed=1" / "val").samples == SPLITS["val"]


def test_dry_run_reports_the_result_and_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    words = ("csv", "--root", str(dataset), "--out", str(tmp_path / "sets"))
    assert list(job_of(*words, "--samples-per-shard", "2").check(1)) == [
        "train: 11 clips in 6 shards",
        "val: 2 clips in 1 shard",
        "test: 1 clip in 1 shard",
    ]
    assert list(job_of(*words, "--bytes-per-shard", "1MB", "--splits", "train", "--limit", "4").check(1)) == [
        "train: 4 clips"
    ]
    assert not (tmp_path / "sets").exists()


def test_dry_run_reports_errors(dataset: Path, tmp_path: Path) -> None:
    words = ("csv", "--root", str(dataset), "--out", str(tmp_path / "sets"))
    for more, expected in [
        (("--root", "nowhere"), "does not exist"),
        (("--splits", "nope"), "has no split 'nope'"),
        (("--preset", "short=3"), "no setting 'short'"),
        (("--out", str(dataset / "clips.csv")), "is not a writable folder"),
    ]:
        with pytest.raises(UserError, match=expected):
            job_of(*words, *more).check(1)
    (tmp_path / "clips.csv").write_text(f"path,split\n{dataset / 'val0.mp4'},jobs\n")
    with pytest.raises(UserError, match="The split 'jobs'"):
        job_of("csv", "--root", str(tmp_path), "--out", str(tmp_path / "sets")).check(1)


def test_dry_run_imports_no_torch(dataset: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from argparse import Namespace
from pathlib import Path
from trichord.shards.commands import COMMANDS
assert not {{"numpy", "av", "torch", "pydantic"}} & set(sys.modules)
(command,) = (each for each in COMMANDS if each.name == "build")
given = Namespace(layout="csv", root=Path({str(dataset)!r}), out=Path({str(tmp_path)!r}), option=[], splits=None,
    mode="copy", preset=[], samples_per_shard=None, bytes_per_shard=None, limit=None, max_missing_fraction=0.05,
    part=None, words=[])
assert len(command.job(given).check(1)) == 3
assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
