"""The SLURM cluster of the tests behaves as the launch tests assume."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.launch import slurm_cluster, slurm_settings
from tests.launch.slurm_cluster import Cluster, ClusterError, start_cluster
from tests.launch.slurm_settings import NODES
from tests.warm import HANGS_AFTER_S

UNTIL_STOP = "until [ -e stop ]; do sleep 0.1; done"


def submit(cluster: Cluster, script: str, output: Path, *options: str) -> str:
    return cluster.run(
        "sbatch", "--parsable", f"--output={output}", "--open-mode=append", *options, "--wrap", script
    ).strip()


def wait_for_text(path: Path, text: str, timeout_s: float = HANGS_AFTER_S) -> None:
    end = time.monotonic() + timeout_s
    while not path.exists() or not path.read_text().startswith(text):
        assert time.monotonic() < end, path.read_text() if path.exists() else f"there is no {path}"
        time.sleep(0.05)


def words_in(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_cluster_starts_with_all_nodes_and_no_jobs(slurm: Cluster) -> None:
    assert [slurm.node_state(node) for node in NODES] == ["idle"] * 3
    assert slurm.run("squeue", "-h") == ""


def test_job_on_two_nodes_has_their_names_and_gpus(slurm: Cluster, tmp_path: Path) -> None:
    script = "srun sh -c 'echo $(hostname) $(getent hosts n3 | cut -d\" \" -f1) $CUDA_VISIBLE_DEVICES'"
    job = submit(slurm, script, tmp_path / "log", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2")
    slurm.wait_for_state(job, "COMPLETED")
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["n1 127.0.0.1 0,1", "n2 127.0.0.1 0,1"]


def test_jobs_share_the_gpus_of_a_node(slurm: Cluster, tmp_path: Path) -> None:
    script = f"echo $CUDA_VISIBLE_DEVICES; {UNTIL_STOP}"
    options = ("--nodelist=n1", "--gpus=1", f"--chdir={tmp_path}")
    jobs = [submit(slurm, script, tmp_path / "log", *options) for _ in range(3)]
    for job in jobs[:2]:
        slurm.wait_for_state(job, "RUNNING")
    slurm.wait("what two jobs wrote", lambda: "".join(sorted(words_in(tmp_path / "log"))), {"01"}, 60)
    assert slurm.state_of(jobs[2]) == "PENDING"
    (tmp_path / "stop").touch()
    slurm.wait_for_state(jobs[2], "COMPLETED")
    assert sorted((tmp_path / "log").read_text().split()[:2]) == ["0", "1"]


def test_requeued_job_starts_again(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, f"echo start $SLURM_RESTART_COUNT; {UNTIL_STOP}", tmp_path / "log", f"--chdir={tmp_path}")
    wait_for_text(tmp_path / "log", "start")
    slurm.run("scontrol", "requeue", job)
    slurm.wait_for_state(job, "PENDING")
    slurm.wait_for_state(job, "RUNNING")
    (tmp_path / "stop").touch()
    slurm.wait_for_state(job, "COMPLETED")
    assert (tmp_path / "log").read_text().splitlines()[::2] == ["start", "start 1"]


def test_job_whose_slurmd_is_killed_starts_on_another_node(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, f"hostname; {UNTIL_STOP}", tmp_path / "log", f"--chdir={tmp_path}")
    wait_for_text(tmp_path / "log", "n1\n")
    slurm.kill_slurmd("n1")
    assert "slurmd-n1" not in slurm.running() and "n1" in slurm.running()
    slurm.wait_for_node("n1", "down*")
    slurm.start_now(job)
    wait_for_text(tmp_path / "log", "n1\nn2\n")
    (tmp_path / "stop").touch()
    slurm.wait_for_state(job, "COMPLETED")
    slurm.start_slurmd("n1")
    slurm.wait_for_node("n1", "idle")
    assert slurm.history_of(job) == ["NODE_FAIL", "COMPLETED"]


def test_killed_node_ends_its_jobs_and_comes_back(slurm: Cluster, tmp_path: Path) -> None:
    script = "hostname; trap '' TERM; while sleep 0.05; do touch alive; done"
    job = submit(slurm, script, tmp_path / "log", f"--chdir={tmp_path}", "--nodelist=n2", "--no-requeue")
    wait_for_text(tmp_path / "alive", "")
    slurm.kill_node("n2")
    assert not {"n2", "slurmd-n2"} & slurm.running()
    (tmp_path / "alive").unlink()
    slurm.wait_for_state(job, "NODE_FAIL")
    assert not (tmp_path / "alive").exists()
    slurm.start_node("n2")
    slurm.wait_for_node("n2", "idle")
    job = submit(slurm, "hostname", tmp_path / "again", "--nodelist=n2")
    slurm.wait_for_state(job, "COMPLETED")
    assert (tmp_path / "again").read_text() == "n2\n"


def test_leftovers_of_a_test_are_removed_before_the_next(slurm: Cluster, tmp_path: Path) -> None:
    script = "trap '' TERM USR2; while sleep 0.05; do touch alive; done"
    submit(slurm, script, tmp_path / "log", f"--chdir={tmp_path}", "--nodelist=n1")
    submit(slurm, script, tmp_path / "log", f"--chdir={tmp_path}", "--nodes=3", "--exclusive")
    wait_for_text(tmp_path / "alive", "")
    slurm.kill_slurmd("n1")
    slurm.kill_node("n2")
    slurm.run("scontrol", "update", "nodename=n3", "state=drain", "reason=test")
    slurm.bring_back()
    (tmp_path / "alive").unlink()
    assert [slurm.node_state(node) for node in NODES] == ["idle"] * 3
    assert slurm.run("squeue", "-h") == ""
    time.sleep(0.3)
    assert not (tmp_path / "alive").exists()


def test_failed_wait_reports_the_state_and_the_log(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, "true", tmp_path / "log", "--hold")
    with pytest.raises(
        ClusterError, match=rf"(?s)job {job} is PENDING after 0.5 s, not \['RUNNING'\]; slurmctld.log .*{job}"
    ):
        slurm.wait_for_state(job, "RUNNING", timeout_s=0.5)


def processes_of(cluster: Cluster) -> list[Path]:
    """Return the processes whose environment contains the folder of the cluster: its daemons, nodes and jobs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(cluster.folder).encode() in (process / "environ").read_bytes():
                found.append(process)
    return found


def test_cluster_ends_with_the_process_that_it_watches(needs_slurm: None, tmp_path: Path) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    cluster = start_cluster(watched.pid)
    script = f"trap '' TERM; touch {shlex.quote(str(tmp_path / 'alive'))}; sleep 600"
    submit(cluster, script, tmp_path / "log")
    wait_for_text(tmp_path / "alive", "")
    assert len(processes_of(cluster)) > len(cluster.running())
    watched.kill()
    end = time.monotonic() + HANGS_AFTER_S
    while processes_of(cluster) or cluster.folder.exists():
        assert time.monotonic() < end, processes_of(cluster)
        time.sleep(0.05)
    watched.communicate()


def test_failed_start_reports_the_reason_and_cleans_up(needs_slurm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def write_nonsense(folder: Path, ports: slurm_settings.Ports) -> None:
        slurm_settings.write_settings(folder, ports)
        (folder / "slurm.conf").write_text("Nonsense=1\n")
        folders.append(folder)

    monkeypatch.setattr(slurm_cluster, "write_settings", write_nonsense)
    with pytest.raises(ClusterError, match=r"(?s)slurmctld exited 1 while it started.*Nonsense"):
        start_cluster(os.getpid())
    assert [folder.exists() for folder in folders] == [False]


def test_two_clusters_use_different_ports() -> None:
    first, claim = slurm_settings.claim_ports()
    with claim:
        second, other_claim = slurm_settings.claim_ports()
        other_claim.close()
    assert abs(first.first - second.first) >= slurm_settings.BLOCK
    own = [first.controller, first.accounting, *map(first.node, NODES)]
    own += [port for host in (slurm_settings.HEAD, *NODES) for port in first.srun(host)]
    assert len(own) == len(set(own)) and first.first >= 10_000
    assert first.first < min(own) and max(own) < first.first + slurm_settings.BLOCK <= 20_000


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_cluster, "PROGRAMS", ("sh", "slurmdbd-of-nowhere"))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    missing = slurm_cluster.what_is_missing.__wrapped__() or ""
    assert "needs slurmdbd-of-nowhere: apt-get install -y --no-install-recommends slurmctld slurmd" in missing
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert "needs root" in (slurm_cluster.what_is_missing.__wrapped__() or "")
