"""Submit work through submitit: to SLURM, to processes on this machine, or to this process."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from trichord.core.errors import UserError
from trichord.launch.cluster_file import ClusterSettings
from trichord.launch.history import Cluster

_YEAR_MINUTES = 365 * 24 * 60  # submitit's local jobs must have a limit
# Inherited from the submitting shell, these would give every rank the identity of another process.
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_A_JOB = ("SLURM_", "SLURMD_", "SUBMITIT_")
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS")
_TEST_S = 60.0
# A warning that arrives while Python starts would end the rank, so it is ignored until a handler is installed; a missed
# one is recovered from the job's time limit and SLURM's controller.
PYTHON = f"""sh -c 'trap "" USR2; exec "$@"' sh {shlex.quote(sys.executable)}"""


@dataclass(frozen=True)
class SubmitOptions:
    """How work is to be submitted."""

    cluster: Cluster
    settings: ClusterSettings
    name: str
    logs: Path
    code: Path  # the copy that will run
    jobs: int = 1  # more than one form an array
    at_once: int | None = None  # limit of an array


class _Slurm(SlurmExecutor):
    """A SLURM executor that can write its script on a machine without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def sbatch_text(order: SubmitOptions) -> str:
    """Return the script that sbatch would receive."""
    executor = _slurm_executor(order)
    if order.jobs > 1:
        executor.parameters["map_count"] = order.jobs
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def test_only(order: SubmitOptions) -> str:
    """Return SLURM's estimate of the job's start; raise UserError with SLURM's message if it would refuse the job."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(sbatch_text(order))
        file.flush()
        try:
            with _outside_of_jobs():
                done = subprocess.run(
                    ["sbatch", "--test-only", file.name], capture_output=True, text=True, timeout=_TEST_S
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"sbatch did not answer: {error}. Next: trichord doctor") from error
    answer = done.stderr.strip().replace("sbatch: ", "")
    if done.returncode:
        raise UserError(_refused(answer))
    return answer.splitlines()[-1] if answer else "sbatch would accept it"


def submit(order: SubmitOptions, works: Sequence[Callable[[], None]]) -> list[str]:
    """Submit the work and return the job ids; debug runs it immediately in this process, one job after another."""
    with _outside_of_jobs():
        return _submit(order, works)


def _submit(order: SubmitOptions, works: Sequence[Callable[[], None]]) -> list[str]:
    if order.cluster == "debug":
        return [_run_here(order, work) for work in works]
    executor: Any = _slurm_executor(order) if order.cluster == "slurm" else _local_executor(order)
    try:
        with _environment(order) if order.cluster == "local" else nullcontext():
            if len(works) == 1 or order.cluster == "local":
                return [executor.submit(work).job_id for work in works]
            return [job.job_id for job in executor.submit_array(works)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(_refused(str(error))) from error


def _refused(answer: str) -> str:
    return f"SLURM refused this job: {answer}\nNext: trichord launch --dry-run …, and sinfo for the available nodes"


def _slurm_executor(order: SubmitOptions) -> _Slurm:
    settings = order.settings
    srun = ["--kill-on-bad-exit=1"]
    if settings.cpus_per_task:
        srun.append(f"--cpus-per-task={settings.cpus_per_task}")  # srun no longer inherits it from sbatch
    executor = _Slurm(order.logs, python=PYTHON)
    executor.update_parameters(
        job_name=order.name,
        nodes=settings.nodes,
        ntasks_per_node=settings.tasks,
        gpus_per_node=settings.gpus_per_node or None,
        cpus_per_task=settings.cpus_per_task,
        mem=f"{round(settings.mem_gb * 1024)}MB" if settings.mem_gb else None,
        time=settings.minutes,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        constraint=settings.constraint,
        exclude=settings.exclude,
        signal_delay_s=settings.warning_s,
        array_parallelism=order.at_once or order.jobs,
        wckey=None,
        stderr_to_stdout=True,
        setup=[*settings.setup, *_exports(order)],  # after the site's setup, which may set PYTHONPATH too
        srun_args=[*srun, *settings.srun],
        additional_parameters={"requeue": True, **settings.sbatch},
    )
    return executor


def _exports(order: SubmitOptions) -> list[str]:
    """Return shell lines that make the job run the snapshot's code, not the code in the folder of the submission."""
    code = shlex.quote(str(order.code))
    return [
        f"unset {' '.join(_NOT_INHERITED)}",
        f'export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONSAFEPATH=1',
        "export SLURM_EXPORT_ENV=ALL",  # with sbatch --export=NONE, srun would pass none of this on
    ]


def _local_executor(order: SubmitOptions) -> submitit.LocalExecutor:
    settings = order.settings
    executor = submitit.LocalExecutor(order.logs, python=PYTHON)
    executor.update_parameters(
        tasks_per_node=settings.tasks,
        gpus_per_node=settings.gpus_per_node,
        timeout_min=settings.minutes or _YEAR_MINUTES,
        signal_delay_s=settings.warning_s,
        stderr_to_stdout=True,
    )
    # update_parameters takes only numbers, but names such as MIG-… select a device as well.
    executor.parameters["visible_gpus"] = _own_gpus(settings.gpus_per_node)
    return executor


def _own_gpus(count: int) -> tuple[str, ...]:
    """Return the GPUs visible to this shell; submitit would take the machine's first ones, allotted or not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = tuple(str(number) for number in range(count)) if visible is None else tuple(filter(None, visible.split(",")))
    if len(own) < count:
        raise UserError(
            f"--gpus-per-node {count}, but CUDA_VISIBLE_DEVICES={visible} allows {len(own)} here. Give at most "
            "that, or unset it if you may use all GPUs"
        )
    return own


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of an enclosing job, if any: submitted work would take itself for a part of that job."""
    is_in_job = "SLURM_JOB_ID" in os.environ or "SUBMITIT_LOCAL_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith(_OF_A_JOB) and name not in _OF_THE_SITE]
    hidden = {name: os.environ.pop(name) for name in names if is_in_job}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _environment(order: SubmitOptions) -> Iterator[None]:
    """Make processes started meanwhile run the snapshot's code and outlive this terminal."""
    before = dict(os.environ)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    for name in _NOT_INHERITED:
        os.environ.pop(name, None)
    path = os.environ.get("PYTHONPATH")
    os.environ.update(PYTHONPATH=f"{order.code}:{path}" if path else str(order.code), PYTHONSAFEPATH="1")
    try:
        with _own_streams(order.logs / "controller.log"):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _own_streams(log: Path) -> Iterator[None]:
    """Detach started processes from this one's streams: `trichord launch … | tail` would wait for the job's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    before = [os.dup(number) for number in range(3)]
    with open(os.devnull) as nothing, log.open("a") as file:
        for number, stream in enumerate((nothing, file, file)):
            os.dup2(stream.fileno(), number)
        try:
            yield
        finally:
            for number, descriptor in enumerate(before):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _run_here(order: SubmitOptions, work: Callable[[], None]) -> str:
    executor: Any = submitit.DebugExecutor(order.logs)
    job = executor.submit(work)
    sys.stderr.flush()
    job.results()
    return str(job.job_id)
