"""Settings of the SLURM cluster of the tests: three nodes of two GPUs each on loopback, tuned for quick tests."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

NODES = ("n1", "n2", "n3")
GPUS_PER_NODE = 2
HEAD = "head"  # the host name of the daemons that run on no node
BLOCK = 200  # ports of one cluster

SLURM = """\
ClusterName=tests
SlurmctldHost={head}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job may start again only when its credential has run out: after 2 minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=8
# All listen only where their own host name points to: to loopback, by the hosts file below.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
# A host's own, see Ports.srun; so the files of hosts differ, which is no mistake.
SrunPortRange={first_srun}-{last_srun}
DebugFlags=NO_CONF_HASH
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# submitit takes a result that an earlier job of the same number left behind for that of the new one
FirstJobId={first_job}
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
PropagateResourceLimits=NONE
# nodes may claim more than the machine has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.accounting}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
BatchStartTimeout=10
MessageTimeout=5
TCPTimeout=2
# between SIGTERM and SIGKILL: a run saves meanwhile
KillWait=15
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# without it a job that must give way hears only SIGTERM
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000 Gres=gpu:{gpus}"

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={head}
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
CommunicationParameters=NoInAddrAny
"""

DATABASE = """\
[mariadbd]
user=root
datadir={folder}/database
# it names temporary files by its process number, which is the same in another cluster's namespace
tmpdir={folder}/temporary
socket={folder}/database.socket
pid-file={folder}/database.pid
log-error={folder}/log/mariadbd.log
skip-networking
skip-name-resolve
skip-log-bin
performance_schema=0
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
# nothing here need survive a crash
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
innodb_use_native_aio=0
"""


class Ports(NamedTuple):
    """The block of ports of a cluster; binding the first port claims the block."""

    first: int

    @property
    def controller(self) -> int:
        return self.first + 1

    @property
    def accounting(self) -> int:
        return self.first + 2

    def node(self, name: str) -> int:
        return self.first + 3 + NODES.index(name)

    def srun(self, host: str) -> range:
        """Return the ports on which a host's srun listens to its tasks; no two hosts share one.

        All hosts share one address here. A job that starts again on another node keeps its ids, so its
        srun would mistake the exit of a task of the earlier start, on a disconnected node, for that of its own.
        """
        hosts, taken = (HEAD, *NODES), 3 + len(NODES)
        each = (BLOCK - taken) // len(hosts)
        first = self.first + taken + hosts.index(host) * each
        return range(first, first + each)


def claim_ports() -> tuple[Ports, socket.socket]:
    """Find a block of free ports below 20000, where those of submitit begin; the socket holds it while open."""
    blocks = range(10_000, 20_000, BLOCK)
    own = os.getpid() % len(blocks)
    for first in (*blocks[own:], *blocks[:own]):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
            continue
        if all(is_free(port) for port in range(first + 1, first + BLOCK)):
            return Ports(first), claim
        claim.close()
    raise OSError(f"no {BLOCK} free ports in a row from {blocks.start} to {blocks.stop}: see `ss -ltn`")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def settings_of(host: str) -> str:
    """Return the file that a host reads as slurm.conf."""
    return "slurm.conf" if host == HEAD else f"slurm-{host}.conf"


def write_settings(folder: Path, ports: Ports) -> None:
    """Fill a new folder with the files that the daemons read and the folders that they write."""
    for name in ("log", "munge", "controller", "spool", "temporary", "key", "database", "database/mysql"):
        (folder / name).mkdir(mode=0o700 if name in ("key", "database") else 0o755)
    for name in NODES:
        (folder / "spool" / name).mkdir(mode=0o755)
    write_private(folder / "key" / "munge.key", os.urandom(1024))
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", HEAD, *NODES)))
    nodes = "\n".join(NODE.format(name=name, port=ports.node(name), gpus=GPUS_PER_NODE) for name in NODES)
    # The rendezvous port follows from the job id modulo 12,000: each cluster has 240 values of its own,
    # because others may run at the same time. SLURM's job ids end at 67 million.
    first_job = 1 + ports.first // BLOCK % 60 * (83 * 12_000 + 240) + int(time.time()) % 80 * 12_000
    values = {"folder": folder, "ports": ports, "head": HEAD, "nodes": nodes, "first_job": first_job}
    for host in (HEAD, *NODES):
        srun = ports.srun(host)
        (folder / settings_of(host)).write_text(SLURM.format(**values, first_srun=srun[0], last_srun=srun[-1]))
    write_private(folder / "slurmdbd.conf", ACCOUNTING.format(**values).encode())
    (folder / "database.conf").write_text(DATABASE.format(**values))
    # SLURM requires device files, but opens none of them
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    # no cgroup is used, but slurmd exits if none is mounted
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
