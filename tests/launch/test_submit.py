"""What a job is given of the shell that it was launched in, and what it must never get from there."""

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
from trichord.launch.cluster_file import Settings
from trichord.launch.submit import Order, submit

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


@dataclass(frozen=True)
class Tell:
    """Work that writes down which GPUs it sees."""

    path: Path

    def __call__(self) -> None:
        write_whole(self.path, f"sees {os.environ['CUDA_VISIBLE_DEVICES']}")


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


@pytest.mark.parametrize(
    ("told", "count", "expected"),
    [(None, 2, "0,1"), ("4,5,6", 2, "4,5"), ("MIG-1a,MIG-2b", 2, "MIG-1a,MIG-2b"), ("4", 0, "")],
)
def test_on_one_machine_ranks_get_the_gpus_that_the_shell_has(
    told: str | None, count: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    submit(order(tmp_path, "local", gpus_per_node=count, tasks_per_node=1), [Tell(tmp_path / "told")])
    end = time.monotonic() + HANGS_AFTER_S
    while not (tmp_path / "told").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "told").read_text() == f"sees {expected}"


def test_more_gpus_than_the_shell_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=4 allows 1 here"):
        submit(order(tmp_path, "local", gpus_per_node=2), [nothing])
