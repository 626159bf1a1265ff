"""`trichord doctor` checks everything, finds problems, and suggests a command for each."""

from __future__ import annotations

import json
import os
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from trichord.core import wheels
from trichord.launch import cli, doctor
from trichord.launch.doctor_cluster import CheckResult

Usage = namedtuple("Usage", "total used free")


def wrong(findings: object) -> dict[str, str]:
    """Return the problems, with the first words of their fixes."""
    assert not isinstance(findings, dict)
    return {each.what: each.fix for each in findings if each.fix}  # type: ignore[attr-defined]


def test_everything_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    status = cli.main(["doctor", "--json"])
    shown = capsys.readouterr()
    rows = {row["what"]: row for row in json.loads(shown.out)["rows"]}
    assert status == int(any(row["fix"] for row in rows.values()))
    assert {row["part"] for row in rows.values()} == {
        "versions",
        "devices",
        "decoders",
        "ranks",
        "CPU",
        "cluster",
        "disk",
    }
    for name in ("torch", "deepspeed", "webdataset", "av"):
        assert rows[name]["found"][0].isdigit()
    assert rows["PyAV"]["found"] == "decodes H.264 and AAC"
    assert rows["gloo"]["found"] == "available"
    assert "no commands found" in rows["SLURM"]["found"]
    assert rows["writing here"]["found"].endswith("MB/s, one file, with fsync")
    assert any("TFLOP/s" in row["found"] for row in rows.values() if row["part"] == "devices")
    assert "GB/s" in rows["memory allocator"]["found"]
    assert not list(tmp_path.iterdir())


def test_missing_package_is_reported_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED", ("torch", "no-such-distribution"))
    assert list(wrong(doctor._versions())) == ["no-such-distribution"]


@pytest.mark.parametrize("loads", [True, False])
def test_native_code_that_does_not_match_torch_is_reported(monkeypatch: pytest.MonkeyPatch, loads: bool) -> None:
    monkeypatch.setattr(wheels, "native_code_loads", lambda name: loads)
    found = {each.what: each.found for each in doctor._native_wheels()}
    assert ["`import torchaudio` fails" in found["torchaudio"], "TORCH_INDEX" in found["torchvision"]] == [
        not loads
    ] * 2


def test_host_without_an_address_is_reported_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "nameless.invalid")

    def unknown(name: str) -> str:
        raise socket.gaierror(f"unknown: {name}")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert "nameless.invalid" in wrong(doctor._communication())["own host name"]


def test_full_disks_and_small_shared_memory_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(100, 99, 64 << 20))
    found = wrong(doctor._disks(tmp_path))
    assert "another disk" in found["free here"]
    assert not Path("/dev/shm").is_dir() or "--shm-size" in found["shared memory for workers"]


def test_gpu_that_torch_does_not_see_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "TORCH=cuda" in wrong(doctor._devices())["GPU"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be counted here")
def test_idle_cores_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "unset OMP_NUM_THREADS" in wrong(doctor._allocator_and_threads())["threads of one rank"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert not wrong(doctor._allocator_and_threads())


def test_problems_are_repeated_at_the_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [CheckResult("disk", "free here", "nothing", "free some"), CheckResult("disk", "colour", "grey")]
    monkeypatch.setattr(doctor, "examine", lambda folder: iter(found))
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "wrong: free here: nothing\n  fix: free some\n"
    assert "grey" in shown.out
    monkeypatch.setattr(doctor, "examine", lambda folder: iter(found[1:]))
    assert cli.main(["doctor"]) == 0
