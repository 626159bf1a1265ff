"""What a job is given of the shell that it was launched in, and what it must never get from there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch import submit as submitting
from launch.cluster_file import Settings
from launch.submit import Order, submit
from tests.launch.fake_slurm import FakeSlurm

OUTER = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_ARRAY_JOB_ID": "6",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_MEM_PER_CPU": "300",
    "SUBMITIT_EXECUTOR": "slurm",
}


def order(folder: Path, cluster: str = "slurm", **settings: object) -> Order:
    return Order(
        cluster=cluster,  # type: ignore[arg-type]
        settings=Settings.model_validate(settings),
        name="test",
        logs=folder / "logs",
        code=folder / "code",
    )


def nothing() -> None:
    """Be the work."""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file into which sbatch writes the environment that it would hand on."""
    fake, told = FakeSlurm(tmp_path / "bin", monkeypatch), tmp_path / "told"
    fake.answers("sbatch", "Submitted batch job 9")
    path = tmp_path / "bin" / "sbatch"
    path.write_text(path.read_text().replace("\n", f"\nenv > '{told}'\n", 1))
    return told


def test_what_is_typed_in_a_job_starts_one_that_is_no_part_of_it(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**OUTER, "SLURM_CONF": "/etc/conf", "SBATCH_ACCOUNT": "lab"}.items():
        monkeypatch.setenv(name, value)
    for hand_over in (lambda: submit(order(tmp_path), [nothing]), lambda: submitting.test_only(order(tmp_path))):
        hand_over()
        names = {line.partition("=")[0] for line in told.read_text().splitlines()}
        assert not names & set(OUTER)
        assert names >= {"SLURM_CONF", "SBATCH_ACCOUNT", "PATH"}
        assert os.environ["SLURM_PROCID"] == "0", "this process stays what it was"


def test_outside_of_jobs_what_people_set_for_slurm_stays(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    assert submit(order(tmp_path), [nothing]) == ["9"]
    assert "SLURM_CPU_BIND=cores" in told.read_text()
