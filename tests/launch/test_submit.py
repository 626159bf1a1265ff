"""What a job inherits from the shell that launched it, and what it must not inherit."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.fake_slurm import FakeSlurm
from tests.launch.slurm_cluster import ROOT
from tests.warm import HANGS_AFTER_S
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.launch import submit as submitting
from trichord.launch.cluster_file import ClusterSettings
from trichord.launch.submit import SubmitOptions, submit

OUTER = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_ARRAY_JOB_ID": "6",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_MEM_PER_CPU": "300",
    "SUBMITIT_EXECUTOR": "slurm",
}


def order(folder: Path, cluster: str = "slurm", **settings: object) -> SubmitOptions:
    return SubmitOptions(
        cluster=cluster,  # type: ignore[arg-type]
        settings=ClusterSettings.model_validate(settings),
        name="test",
        logs=folder / "logs",
        code=folder / "code",
    )


@dataclass(frozen=True)
class RecordGpus:
    """A command that records which GPUs it sees."""

    path: Path

    def __call__(self) -> None:
        write_whole(self.path, f"sees {os.environ['CUDA_VISIBLE_DEVICES']}")


def nothing() -> None:
    """Be the work."""


@pytest.fixture
def environment_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which sbatch writes the environment that it would pass on."""
    fake, environment_file = FakeSlurm(tmp_path / "bin", monkeypatch), tmp_path / "recorded"
    fake.answers("sbatch", "Submitted batch job 9")
    path = tmp_path / "bin" / "sbatch"
    path.write_text(path.read_text().replace("\n", f"\nenv > '{environment_file}'\n", 1))
    return environment_file


def test_launch_inside_a_job_starts_an_independent_job(
    environment_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**OUTER, "SLURM_CONF": "/etc/conf", "SBATCH_ACCOUNT": "lab"}.items():
        monkeypatch.setenv(name, value)
    for hand_over in (lambda: submit(order(tmp_path), [nothing]), lambda: submitting.test_only(order(tmp_path))):
        hand_over()
        names = {line.partition("=")[0] for line in environment_file.read_text().splitlines()}
        assert not names & set(OUTER)
        assert names >= {"SLURM_CONF", "SBATCH_ACCOUNT", "PATH"}
        assert os.environ["SLURM_PROCID"] == "0", "this process stays what it was"


def test_slurm_variables_of_the_user_are_kept_outside_of_jobs(
    environment_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    assert submit(order(tmp_path), [nothing]) == ["9"]
    assert "SLURM_CPU_BIND=cores" in environment_file.read_text()


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, "0,1"), ("4,5,6", 2, "4,5"), ("MIG-1a,MIG-2b", 2, "MIG-1a,MIG-2b"), ("4", 0, "")],
)
def test_local_ranks_use_the_gpus_of_the_shell(
    visible: str | None, count: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    submit(order(tmp_path, "local", gpus_per_node=count, tasks_per_node=1), [RecordGpus(tmp_path / "recorded")])
    end = time.monotonic() + HANGS_AFTER_S
    while not (tmp_path / "recorded").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "recorded").read_text() == f"sees {expected}"


def test_more_gpus_than_the_shell_has_are_refused_locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=4 allows 1 here"):
        submit(order(tmp_path, "local", gpus_per_node=2), [nothing])
