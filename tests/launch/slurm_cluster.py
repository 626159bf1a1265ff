"""A real SLURM cluster for tests: one for each pytest process, on loopback, which ends with that process."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from tests.launch.slurm_settings import NODES, claim_ports, write_settings
from tests.launch.slurm_supervisor import tail_of
from tests.warm import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where Debian installs daemons
NAMESPACES = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core"
UP = {"idle", "mixed", "allocated", "completing"}
ANSWER_WITHIN_S = 20.0  # SLURM's own commands give up after about ten


class ClusterError(Exception):
    """The cluster did not do what a test waited for; the message ends with the tail of its log."""


class Cluster:
    """A handle to a running cluster; several processes may have one for the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """Return the environment of this process, with what a subprocess needs to reach this cluster."""
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, timeout_s: float = ANSWER_WITHIN_S) -> str:
        """Run one of SLURM's commands, or any other, and return its output."""
        try:
            done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"`{' '.join(command)}` gave no answer in {timeout_s} s; {self.tail()}") from None
        if done.returncode:
            raise ClusterError(f"`{' '.join(command)}` exited {done.returncode}: {done.stderr.strip()}; {self.tail()}")
        return done.stdout

    def state_of(self, job: str) -> str:
        """Return the state of a job in the controller, e.g. RUNNING; it forgets a job 5 minutes after its end."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(field.partition("=")[::2] for field in shown.split())["JobState"]

    def history_of(self, job: str) -> list[str]:
        """Return the state of each start of a job in the accounting, e.g. ["NODE_FAIL", "RUNNING"]."""
        states = self.run("sacct", "-D", "-X", "-n", "-P", "-o", "State", "-j", job)
        return states.splitlines()

    def node_state(self, node: str) -> str:
        """Return the state of a node, e.g. idle; that of a node that does not answer ends with a star, e.g. down*."""
        return self.run("sinfo", "-h", "-p", "main", "-n", node, "-o", "%T").strip()

    def wait_for_state(self, job: str, states: str | Collection[str], timeout_s: float = HANGS_AFTER_S) -> str:
        wanted = {states} if isinstance(states, str) else set(states)
        return self.wait(f"job {job}", lambda: self.state_of(job), wanted, timeout_s)

    def wait_for_node(self, node: str, states: str | Collection[str], timeout_s: float = HANGS_AFTER_S) -> str:
        wanted = {states} if isinstance(states, str) else set(states)
        return self.wait(f"node {node}", lambda: self.node_state(node), wanted, timeout_s, f"slurmd-{node}.log")

    def start_now(self, job: str) -> None:
        """Start a requeued job before its credential expires; this fails if its old node still runs it."""
        self.wait_for_state(job, "PENDING")
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")

    def wait(
        self, what: str, state: Callable[[], str], wanted: Collection[str], timeout_s: float, log: str = "slurmctld.log"
    ) -> str:
        end = time.monotonic() + timeout_s
        while (found := state()) not in wanted:
            if time.monotonic() > end:
                raise ClusterError(f"{what} is {found} after {timeout_s} s, not {sorted(wanted)}; {self.tail(log)}")
            time.sleep(0.1)
        return found

    def tail(self, log: str = "slurmctld.log") -> str:
        return tail_of(self.folder / "log" / log)

    def kill_slurmd(self, node: str) -> None:
        """Kill the daemon of a node alone: its jobs run on until the cluster notices."""
        self.ask(f"kill-slurmd {node}")

    def start_slurmd(self, node: str) -> None:
        self.ask(f"start-slurmd {node}")

    def kill_node(self, node: str) -> None:
        """Kill a node with all its processes, like a power failure."""
        self.ask(f"kill-node {node}")

    def start_node(self, node: str) -> None:
        """Start the missing processes of a node; use wait_for_node to wait until the cluster has it back."""
        self.ask(f"start-node {node}")

    def running(self) -> set[str]:
        """Return the names of the running processes: the four daemons, and for a node n1 `n1` and `slurmd-n1`."""
        return set(self.ask("running").split())

    def ask(self, request: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_WITHIN_S)
                connection.connect(str(self.folder / "control"))
                connection.sendall(request.encode())
                return b"".join(iter(lambda: connection.recv(1000), b"")).decode()
        except OSError as error:
            raise ClusterError(
                f"the supervisor did not answer `{request}`: {error}; {self.tail('supervisor.log')}"
            ) from error

    def cancel_all(self) -> None:
        """End all jobs at once, without time to save."""
        if jobs := self.run("squeue", "-h", "-o", "%A").split():
            for how in ((), ("--signal=KILL", "--full")):
                with suppress(ClusterError):  # one of them may have ended
                    self.run("scancel", *how, *jobs)

    def bring_back(self, timeout_s: float = HANGS_AFTER_S) -> None:
        """Bring every node up and end all jobs."""
        self.cancel_all()
        for node in NODES:
            if not {node, f"slurmd-{node}"} <= self.running():
                self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")  # do not wait for it
                self.kill_node(node)  # if only its daemon was killed, jobs may still run
                self.start_node(node)
        self.wait("the queue", lambda: self.run("squeue", "-h", "-o", "%A %T").strip(), {""}, timeout_s)
        for node in NODES:
            if self.node_state(node) not in UP:
                with suppress(ClusterError):  # this is refused if the node comes back by itself
                    self.run("scontrol", "update", f"nodename={node}", "state=resume")
            self.wait_for_node(node, "idle", timeout_s)


def start_cluster(watched: int, timeout_s: float = HANGS_AFTER_S) -> Cluster:
    """Start a cluster that ends with the process of this id."""
    process = os.pidfd_open(watched)
    ports, claim = claim_ports()
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # it contains sockets, whose paths must be short
    folder.chmod(0o755)  # munged requires that all users can reach its socket
    write_settings(folder, ports)
    command = (*NAMESPACES, sys.executable, "-m", "tests.launch.slurm_supervisor", str(folder), str(ports.first))
    environment = {"PATH": PATH, "SLURM_CONF": f"{folder}/slurm.conf", "MYSQL_UNIX_PORT": f"{folder}/database.socket"}
    with claim, (folder / "log" / "supervisor.log").open("wb") as log:
        supervisor = subprocess.Popen(
            (*command, str(process)),
            cwd=ROOT,
            env=environment,
            pass_fds=(process, claim.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for pytest
        )
    os.close(process)
    cluster = Cluster(folder)
    try:
        end = time.monotonic() + timeout_s
        while not (folder / "control").exists():
            if supervisor.poll() is not None or time.monotonic() > end:
                raise ClusterError(f"no SLURM cluster started: {tail_of(folder / 'log' / 'supervisor.log', 40)}")
            time.sleep(0.02)
        cluster.bring_back()
    except ClusterError:
        supervisor.kill()
        supervisor.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return cluster


@functools.cache
def what_is_missing() -> str | None:
    """Return why no cluster can run here and how to fix it, or None."""
    if os.getuid() != 0:
        return "the tests' SLURM cluster needs root: sudo make test"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        return f"the tests' SLURM cluster needs {', '.join(missing)}: {INSTALL}"
    refused = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    if refused.returncode:
        return f"the tests' SLURM cluster needs namespaces: {refused.stderr.strip()}"
    return None
