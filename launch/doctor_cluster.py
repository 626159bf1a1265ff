"""The SLURM checks of `trichord doctor`: commands, controller, accounting, partitions and the site's cluster file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from trichord.core.errors import UserError
from trichord.launch import slurm
from trichord.launch.cluster_file import default_path, load_cluster_file

_COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "sinfo")
_UP = ("idle", "mixed", "allocated", "completing")  # states in which a node accepts jobs, now or once it has room


def examine_cluster() -> Iterator[CheckResult]:
    """Yield findings about SLURM if its commands exist; each is called once, with a timeout of ten seconds."""
    found = [name for name in _COMMANDS if shutil.which(name)]
    if not found:
        yield CheckResult("cluster", "SLURM", "no commands found; start runs on this machine, or with torchrun")
    else:
        missing = [name for name in _COMMANDS if name not in found]
        fix = f"load the cluster's SLURM module: {', '.join(missing)} not on PATH" if missing else None
        yield CheckResult("cluster", "SLURM", ", ".join(found), fix)
        if not missing:
            yield _controller()
            yield _accounting()
            yield from _partitions()
    yield _cluster_file()


def _controller() -> CheckResult:
    try:
        answer = " ".join(slurm.ask("scontrol", "ping").split())
    except slurm.NoAnswer as error:
        return CheckResult(
            "cluster", "controller", str(error), "ask the cluster's administrators; no job starts until it is up"
        )
    fix = None if " UP" in answer else "ask the cluster's administrators; no job starts until it is up"
    return CheckResult("cluster", "controller", answer, fix)


def _accounting() -> CheckResult:
    """Check accounting; a cluster without it is not the user's error, so no fix is suggested."""
    try:
        slurm.ask("sacct", "-n", "-X", "-o", "JobID")
    except slurm.NoAnswer as error:
        lost = "how a killed job ended is forgotten after minutes, and trichord status then shows its run as lost"
        return CheckResult("cluster", "accounting", f"{error}; without it {lost}")
    return CheckResult("cluster", "accounting", "available: how killed jobs ended is recorded")


def _partitions() -> Iterator[CheckResult]:
    try:
        text = slurm.ask("sinfo", "-h", "-o", "%P|%l|%a|%T|%D|%G")
    except slurm.NoAnswer as error:
        yield CheckResult("cluster", "partitions", str(error), "sinfo")
        return
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        name, *cells = line.split("|")
        rows.setdefault(name, []).append(cells)
    for name, of_states in rows.items():
        limit, availability = of_states[0][:2]
        up = sum(int(count) for _, _, state, count, _ in of_states if state.rstrip("~#%@^-") in _UP)
        total = sum(int(count) for *_, count, _ in of_states)
        gpus = ", ".join(dict.fromkeys(gres for *_, gres in of_states if gres != "(null)")) or "no GPUs"
        is_usable = up > 0 and availability == "up"
        summary = f"nodes up: {up} of {total}, time limit {limit}, {gpus}" + f"; {availability}" * (
            availability != "up"
        )
        what = f"partition {name.rstrip('*')}" + " (default)" * name.endswith("*")
        yield CheckResult("cluster", what, summary if is_usable else f"{summary}: jobs wait there")
    if not rows:
        yield CheckResult("cluster", "partitions", "none visible to you", "ask the cluster's administrators for access")


def _cluster_file() -> CheckResult:
    path = default_path()
    try:
        settings = load_cluster_file(None)
    except UserError as error:
        return CheckResult("cluster", "cluster file", str(error), f"edit {path}")
    if not path.is_file():
        return CheckResult(
            "cluster", "cluster file", f"none at {path}; jobs request only the options given to trichord launch"
        )
    return CheckResult("cluster", "cluster file", f"{path}: {', '.join(settings) or 'empty'}")


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; a `fix` other than None means that it failed, and is the fix."""

    part: str
    what: str
    found: str
    fix: str | None = None
