"""How a process that trains on the CPU gets memory from the system, how many threads it takes and how they wait.

glibc gives large tensors back to the kernel when they are freed, and the kernel gives them again page by page, zeroed.
Told at run time to keep them, it made steps of a TimeSformer of width 384 quicker by 1.05 to 1.06, as much as variables
set before the start with huge pages on top (1.055 to 1.06); copies alone by 7. torch's own huge pages
(THP_MEM_ALLOC_ENABLE) slowed them to 0.78. Threads that spin while they wait for one another make two threads slower
than one as soon as others want the cores too, as loader workers do: 0.06 (width 64) to 0.63 (width 384) of one thread's
speed on cores in demand, and 0.86 to 0.94 when they sleep. (Interleaved steps, 2 cores of an AVX2 machine, fp32.)
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt's names, from malloc.h
_LARGEST = 2**31 - 1
_TOP_PAD_BYTES = 256 << 20


def apply() -> bool:
    """Let threads sleep while they wait, and this process keep memory it frees; says whether its allocator can.

    Call it before torch is imported, for OpenMP reads its variables then; memory may be told at any time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(setting, value) for setting, value in settings)


def thread_plan(local_world_size: int, environment: Mapping[str, str] = os.environ) -> int:
    """Say how many threads a rank computes with: OMP_NUM_THREADS, or its share of the cores it may use."""
    said = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return max(1, own_cores(local_world_size, environment))


def own_cores(local_world_size: int, environment: Mapping[str, str] = os.environ) -> int:
    """Count the cores that are this rank's: SLURM may have bound it to its own, or all ranks of a machine share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    per_task = environment.get("SLURM_CPUS_PER_TASK", "")
    if per_task.isdecimal() and cores <= int(per_task):
        return cores
    return cores // local_world_size
