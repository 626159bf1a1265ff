"""Memory allocation, thread count and thread waiting of a process that trains on the CPU.

glibc returns the memory of large tensors to the kernel when they are freed, and the kernel maps it again page by page,
zeroed. Configured at run time to keep that memory, it made steps of a TimeSformer of width 384 faster by a factor of
1.05 to 1.06, as much as environment variables set before the start plus huge pages (1.055 to 1.06); copies alone became
faster by a factor of 7. torch's own huge pages (THP_MEM_ALLOC_ENABLE) slowed steps to 0.78. If threads spin while they
wait for each other, two threads are slower than one as soon as other processes, such as loader workers, use the cores:
0.06 (width 64) to 0.63 (width 384) of one thread's speed on contended cores, and 0.86 to 0.94 if they sleep.
(Interleaved steps, 2 cores of an AVX2 machine, fp32.)
"""

from __future__ import annotations

import ctypes
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from trichord.core.registry import load

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt's constants, from malloc.h
_LARGEST = 2**31 - 1
_TOP_PAD_BYTES = 256 << 20


def apply() -> bool:
    """Make waiting threads sleep and this process keep freed memory; return whether the allocator supports the latter.

    Call it before torch is imported, when OpenMP reads its variables; the allocator can be configured at any time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(setting, value) for setting, value in settings)


def applied_before(place: str) -> Callable[[Namespace], int]:
    """Return a command's function at ``"module:function"``, which is imported after `apply`, and torch with it."""

    def run(arguments: Namespace) -> int:
        apply()
        return int(load(place)(arguments))

    return run


def thread_plan(local_world_size: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of compute threads of a rank: OMP_NUM_THREADS, or its share of the usable cores."""
    requested = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    return max(1, own_cores(local_world_size, environment))


def own_cores(local_world_size: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of this rank's cores: those SLURM bound it to, or its share of the machine's usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    per_task = environment.get("SLURM_CPUS_PER_TASK", "")
    if per_task.isdecimal() and cores <= int(per_task):
        return cores
    return cores // local_world_size
