"""`trichord doctor` checks SLURM's controller, accounting and limits, and the cluster file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.fake_slurm import FakeSlurm
from trichord.launch import slurm
from trichord.launch.doctor_cluster import CheckResult, examine_cluster

SINFO = """\
main*|infinite|up|idle|2|gpu:2
main*|infinite|up|down*|1|gpu:2
debug|30:00|up|drained|4|(null)
closed|1-00:00:00|down|idle|1|(null)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.answers("scontrol", "Slurmctld(primary) at head is UP\n")
    fake.answers("sinfo", SINFO)
    return fake


def found() -> dict[str, CheckResult]:
    return {each.what: each for each in examine_cluster()}


def test_working_cluster_has_no_problems(fake: FakeSlurm) -> None:
    findings = found()
    assert not [each for each in findings.values() if each.fix]
    assert findings["controller"].found == "Slurmctld(primary) at head is UP"
    assert "how killed jobs ended is recorded" in findings["accounting"].found
    assert findings["partition main (default)"].found == "nodes up: 2 of 3, time limit infinite, gpu:2"
    assert findings["partition debug"].found == "nodes up: 0 of 4, time limit 30:00, no GPUs: jobs wait there"
    assert findings["partition closed"].found.endswith("; down: jobs wait there")
    assert findings["cluster file"].found.startswith("none at ")


def test_silent_controller_and_missing_accounting_are_reported(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)
    fake.hangs("scontrol")
    fake.answers("sacct", error="Slurm accounting storage is disabled", status=1)
    fake.answers("sinfo", error="slurm_load_partitions: Unable to contact slurm controller", status=1)
    findings = found()
    assert "did not answer" in findings["controller"].found and findings["controller"].fix
    assert "is disabled; without it how a killed job ended is forgotten" in findings["accounting"].found
    assert "Unable to contact" in findings["partitions"].found and findings["partitions"].fix


def test_incomplete_slurm_installation_is_reported(fake: FakeSlurm, tmp_path: Path) -> None:
    for name in ("scancel", "sinfo"):
        (tmp_path / "bin" / name).unlink()
    (tmp_path / "no").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        finding = found()["SLURM"]
    assert finding.found == "sbatch, srun, squeue, sacct, scontrol"
    assert "scancel, sinfo not on PATH" in str(finding.fix)


def test_unusable_cluster_file_is_reported(fake: FakeSlurm, tmp_path: Path) -> None:
    path = tmp_path / "config" / "trichord" / "cluster.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("partitoin: gpu\n")
    finding = found()["cluster file"]
    assert "'partition'" in finding.found and finding.fix == f"edit {path}"
    path.write_text("partition: gpu\n")
    assert found()["cluster file"].found == f"{path}: partition"
