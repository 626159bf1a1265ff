"""The rank of this process in a job, read from SLURM, torchrun or submitit; a single process needs none of them."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from trichord.core.errors import UserError
from trichord.pretrain.engine.device import pick_device

# Training collectives wait for the slowest rank of a step, and the first step may compile; control messages wait while
# other ranks write checkpoints to a slow disk.
_STEP_TIMEOUT = timedelta(minutes=30)
_CONTROL_TIMEOUT = timedelta(hours=3)
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class RankPlacement:
    """Rank and sizes of this process, as read from the environment."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str  # that set them


@dataclass(frozen=True)
class World:
    """This process in an initialised process group."""

    placement: RankPlacement
    device: torch.device
    control: dist.ProcessGroup  # gloo, on the CPU, with a long time-out

    @property
    def rank(self) -> int:
        return self.placement.rank

    @property
    def size(self) -> int:
        return self.placement.size

    def agree(self, numbers: list[float], waiting_in: str) -> list[float]:
        """Return the maximum of each number over the ranks; called once a step.

        It uses the devices' own group: with hundreds of ranks gloo takes tens of milliseconds, and no save is awaited.
        """
        message = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        with self._naming(waiting_in):
            dist.all_reduce(message, op=dist.ReduceOp.MAX)
        return message.tolist()

    def highest(self, numbers: list[float], waiting_in: str) -> list[float]:
        """Return the maximum of each number over the ranks, with the long time-out of the control group."""
        message = torch.tensor(numbers, dtype=torch.float64)
        with self._naming(waiting_in):
            dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self.control)
        return [float(number) for number in message]

    def gather(self, text: str, waiting_in: str) -> list[str]:
        """Return every rank's text, in the order of ranks."""
        encoded = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        longest = int(self.highest([float(len(encoded))], waiting_in)[0])
        mine = torch.full((longest,), ord(" "), dtype=torch.uint8)
        mine[: len(encoded)] = encoded
        found: list[Tensor] = [torch.empty_like(mine) for _ in range(self.size)]
        with self._naming(waiting_in):
            dist.all_gather(found, mine, group=self.control)
        return [bytes(each.tolist()).decode().rstrip(" ") for each in found]

    def broadcast(self, text: str, waiting_in: str) -> str:
        """Return the text of rank 0 on all ranks."""
        return self.gather(text if self.rank == 0 else "", waiting_in)[0]

    @contextmanager
    def _naming(self, waiting_in: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size} timed out waiting for the other ranks in: {waiting_in}. One of them "
                f"exited or hangs; see that rank's log for the reason. ({error})"
            ) from error


def find_placement(environment: Mapping[str, str] = os.environ) -> RankPlacement:
    """Return the placement set by torchrun, srun or submitit's local executor; a single process if none of them did."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        missing = [name for name in _TORCHRUN if name not in environment]
        if missing:
            raise UserError(
                f"the environment sets some of {', '.join(_TORCHRUN)} but not {', '.join(missing)}. Start with "
                "torchrun or srun, which set them all, or unset them to run a single process."
            )
        rank, size, local_rank = (int(environment[name]) for name in _TORCHRUN)
        return _checked(
            RankPlacement(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)), "torchrun")
        )
    # The job step's count: a plain process in a batch script sees the job's SLURM_NTASKS but has no step of its own.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        size = int(environment["SLURM_STEP_NUM_TASKS"])
        rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        # "2(x3),1": tasks on each node; nodes may have different numbers
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", str(size))
        return _checked(RankPlacement(rank, size, local_rank, _tasks_on_node(per_node, environment), "SLURM"))
    if "SUBMITIT_LOCAL_NTASKS" in environment:
        size = int(environment["SUBMITIT_LOCAL_NTASKS"])
        rank = int(environment["SUBMITIT_LOCAL_GLOBALID"])
        return _checked(RankPlacement(rank, size, int(environment["SUBMITIT_LOCAL_LOCALID"]), size, "submitit"))
    return RankPlacement(0, 1, 0, 1, "single process")


def _checked(placement: RankPlacement) -> RankPlacement:
    if not 0 <= placement.rank < placement.size:
        raise UserError(
            f"{placement.launcher} set rank {placement.rank} of {placement.size}; expected 0 to {placement.size - 1}"
        )
    return placement


def _tasks_on_node(per_node: str, environment: Mapping[str, str]) -> int:
    counts: list[int] = []
    for part in per_node.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[int(environment.get("SLURM_NODEID", 0)) % len(counts)]


@dataclass
class _Joined:
    """What `join_world` made, for the next call and for `leave_world`."""

    world: World | None = None
    group: object = None
    variables: Mapping[str, str] = field(default_factory=dict)  # set by it
    store: Any = None  # a dist.Store in which ranks meet; kept, since they may join several groups in turn
    times: int = 0


_joined = _Joined()


def join_world() -> World:
    """Initialise the process group, or reuse the existing one; any failure here ends the run."""
    if _joined.world is not None and dist.is_initialized() and dist.group.WORLD is _joined.group:
        return _joined.world
    _unset_variables()  # of a group that is gone; they would look like those of torchrun
    placement = find_placement()
    device = pick_device(placement.local_rank)
    # DeepSpeed reads these, whichever launcher set the rank.
    numbers = (placement.rank, placement.size, placement.local_rank, placement.local_size)
    variables = dict(zip((*_TORCHRUN, "LOCAL_WORLD_SIZE"), map(str, numbers), strict=True))
    _joined.variables = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(variables)
    if dist.is_initialized():
        _refuse_other_group(placement)
    else:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = _meet(placement)
        dist.init_process_group(
            backend, store=store, rank=placement.rank, world_size=placement.size, timeout=_STEP_TIMEOUT
        )
    control = dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)
    _joined.world, _joined.group = World(placement, device, control), dist.group.WORLD
    return _joined.world


def _refuse_other_group(placement: RankPlacement) -> None:
    """Raise UserError if the existing process group is not the one that the environment describes."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if (rank, size) != (placement.rank, placement.size):
        raise UserError(
            f"torch.distributed is initialised as rank {rank} of {size}, but this is rank {placement.rank} of "
            f"{placement.size} by {placement.launcher}. Set {', '.join(_TORCHRUN)} as torchrun does"
        )


def _meet(placement: RankPlacement) -> Any:
    """Return the store through which the ranks find each other.

    Each group has its own names in it: a rank that is ahead would otherwise read the addresses of the group before.
    """
    if placement.size == 1:
        return dist.HashStore()  # type: ignore[attr-defined]
    if _joined.store is None:
        _set_meeting_point(placement)
        found = rendezvous("env://", placement.rank, placement.size, timeout=_STEP_TIMEOUT)
        _joined.store, _, _ = next(iter(found))
    _joined.times += 1
    return dist.PrefixStore(f"trichord {_joined.times}", _joined.store)  # type: ignore[attr-defined]


def _set_meeting_point(placement: RankPlacement) -> None:
    """Set MASTER_ADDR and MASTER_PORT, which DeepSpeed and torch read, unless they are set."""
    if placement.launcher == "SLURM":
        # The step's nodes, not the job's: a step may run on some of them, and rank 0 is on the step's first node.
        os.environ.setdefault("MASTER_ADDR", first_node(os.environ["SLURM_STEP_NODELIST"]))
        # Below the ephemeral ports. Jobs on one node get different ports, as do the steps of one job and its restarts:
        # an earlier start may still be exiting.
        starts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        number = int(os.environ["SLURM_JOB_ID"]) + 4001 * int(os.environ["SLURM_STEP_ID"]) + 1013 * starts
        os.environ.setdefault("MASTER_PORT", str(20000 + number % 12000))
    elif placement.launcher == "submitit":
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SUBMITIT_LOCAL_JOB_ID"]) % 12000))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{placement.size} ranks need a rendezvous, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set on {socket.gethostname()}. Start with torchrun or srun."
        )


def first_node(listed: str) -> str:
    """Return the first node of a SLURM node list: of "gpu[003-005,9]-ib,cpu1", gpu003-ib."""
    group = re.match(r"(?:[^,\[]|\[[^\]]*\])+", listed)
    if not group:
        raise UserError(f"cannot parse SLURM's node list {listed!r}; expected something like gpu[003-005]")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", group[0])


def leave_world() -> None:
    """Destroy the process group; this process may join another one later."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _unset_variables()
    _joined.world, _joined.group = None, None
    if groups := sys.modules.get("deepspeed.utils.groups"):
        vars(groups)["_WORLD_GROUP"] = None  # it would keep a reference to the destroyed group


def _unset_variables() -> None:
    """Unset the environment variables that `join_world` set, unless they were changed since."""
    for name, value in _joined.variables.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _joined.variables = {}
