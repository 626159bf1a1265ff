"""Runs the daemons of the SLURM cluster of the tests, and ends with the test session, as does all that it started.

It is the first process of a pid namespace, so the kernel ends all other processes in it with this one: daemons,
nodes, jobs. It notices the end of the watched process by a pidfd, which works across namespaces and with reused ids.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tests.launch.slurm_settings import HEAD, NODES, Ports, settings_of

READY_WITHIN_S = 300.0
SYSTEM_TABLES = [
    Path("/usr/share/mysql") / name for name in ("mysql_system_tables.sql", "mysql_system_tables_data.sql")
]


class Supervisor:
    """The processes of the cluster by name: `n1` is the first process of a node, `slurmd-n1` its daemon."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.folder = folder
        self.ports = ports
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        munge, database = self.folder / "munge" / "socket", self.folder / "database.socket"
        self.run("munged", "--foreground", f"--key-file={self.folder}/key/munge.key", f"--socket={munge}",
                 f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/log/munged.log",
                 f"--seed-file={self.folder}/key/seed", "--num-threads=4", "--origin=127.0.0.1")  # fmt: skip
        self.make_database()
        self.run("mariadbd", f"--defaults-file={self.folder}/database.conf")
        self.wait("munged", lambda: answers(munge))
        self.wait("mariadbd", lambda: answers(database))
        self.run("slurmdbd", "-D")
        self.wait("slurmdbd", lambda: answers(self.ports.accounting))
        self.run("slurmctld", "-D", "-i")
        self.wait("slurmctld", lambda: answers(self.ports.controller))
        for name in NODES:
            self.start_node(name)

    def make_database(self) -> None:
        """Do what mariadb-install-db does, which needs more than the core package of the server contains."""
        tables = "\n".join(path.read_text() for path in SYSTEM_TABLES)
        ours = (
            "CREATE DATABASE slurm;",
            "FLUSH PRIVILEGES;",
            "CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';",
            "GRANT ALL ON slurm.* TO 'slurm'@'localhost';",
        )
        with (self.folder / "log" / "mariadbd.out").open("ab") as output:
            made = subprocess.run(
                ["mariadbd", f"--defaults-file={self.folder}/database.conf", "--bootstrap"],
                input="\n".join(("USE mysql;", tables, *ours, "")).encode(),
                stdout=output,
                stderr=output,
                timeout=READY_WITHIN_S,
            )
        if made.returncode:
            self.fail("mariadbd", f"exited {made.returncode} while it made the database")

    def run(self, *command: str, name: str | None = None) -> None:
        name = name or command[0]
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def wait(self, name: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + READY_WITHIN_S
        while not holds():
            if not self.is_running(name):
                self.fail(name, f"exited {self.processes[name].returncode} while it started")
            if time.monotonic() > end:
                self.fail(name, f"was not ready after {READY_WITHIN_S:.0f} s")
            time.sleep(0.02)

    def fail(self, name: str, why: str) -> NoReturn:
        logs = (tail_of(self.folder / "log" / f"{name}.{kind}") for kind in ("out", "log"))
        sys.exit("\n".join((f"{name} {why}", *logs)))

    def is_running(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def start_node(self, node: str) -> None:
        """Start a node with its own host name; ending its first process, `sleep`, ends all of its processes."""
        if not self.is_running(node):
            namespaces = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
            settings = f"mount --bind {self.folder}/{settings_of(node)} {self.folder}/slurm.conf"
            # the first process adopts orphans and need not reap them, because it ignores SIGCHLD
            command = f"hostname {node} && {settings} && trap '' CHLD && exec sleep infinity"
            self.run(*namespaces, "sh", "-c", command, name=node)
            self.wait(node, lambda: self.first_process(node) is not None)
        self.start_slurmd(node)

    def first_process(self, node: str) -> int | None:
        """Return the first process of the node once it sleeps, when the node is set up."""
        child = only_child(self.processes[node])
        return child if child and Path(f"/proc/{child}/comm").read_text() == "sleep\n" else None

    def kill_node(self, node: str) -> None:
        if self.is_running(node) and (first := self.first_process(node)):
            os.kill(first, 9)
            self.processes[node].wait()  # which ends after the kernel has ended all other processes of the node
            self.processes[f"slurmd-{node}"].wait()

    def start_slurmd(self, node: str) -> None:
        name = f"slurmd-{node}"
        if not self.is_running(name):
            into = ("nsenter", f"--target={self.first_process(node)}", "--mount", "--uts", "--pid")
            self.run(*into, "slurmd", "-D", "-N", node, name=name)

    def kill_slurmd(self, node: str) -> None:
        """Kill the daemon of a node alone: its jobs run on."""
        name = f"slurmd-{node}"
        if self.is_running(name) and (daemon := only_child(self.processes[name])):
            os.kill(daemon, 9)
            self.processes[name].wait()

    def serve(self, watched: int) -> None:
        """Serve the requests of tests, one per connection, until the watched process has ended."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self.folder}/new-control")
            listener.listen()
            os.rename(
                self.folder / "new-control", self.folder / "control"
            )  # it exists only once connections are accepted
            while watched not in select.select([watched, listener.fileno()], [], [])[0]:
                connection, _ = listener.accept()
                with connection, suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(self.answer(connection.recv(100).decode()).encode())

    def answer(self, request: str) -> str:
        action, _, node = request.partition(" ")
        actions: dict[str, Callable[[str], None]] = {
            "start-node": self.start_node,
            "kill-node": self.kill_node,
            "start-slurmd": self.start_slurmd,
            "kill-slurmd": self.kill_slurmd,
        }
        if action in actions:
            actions[action](node)
        return " ".join(name for name in self.processes if self.is_running(name))

    def end(self) -> None:
        for node in NODES:
            self.kill_node(node)
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)


def tail_of(log: Path, lines: int = 15) -> str:
    if not log.exists():
        return f"there is no {log.name}"
    return "\n".join([f"{log.name} ends with", *log.read_text(errors="replace").splitlines()[-lines:]])


def only_child(process: subprocess.Popen[bytes]) -> int | None:
    with suppress(FileNotFoundError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0]) if children else None
    return None


def answers(place: Path | int) -> bool:
    with socket.socket(socket.AF_INET if isinstance(place, int) else socket.AF_UNIX) as probe:
        return probe.connect_ex(("127.0.0.1", place) if isinstance(place, int) else str(place)) == 0


def main() -> None:
    folder, first_port, watched = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.umask(0o022)
    socket.sethostname(HEAD)
    subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
    supervisor = Supervisor(folder, Ports(first_port))
    supervisor.start()
    supervisor.serve(watched)
    supervisor.end()


if __name__ == "__main__":
    main()
