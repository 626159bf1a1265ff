"""The doctor's part on SLURM: whether it answers, what it forgets, where jobs can go, and the site's own settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from trichord.core.errors import UserError
from trichord.launch import slurm
from trichord.launch.cluster_file import default_path, load_cluster_file
from trichord.launch.finding import Finding

_COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "sinfo")
_UP = ("idle", "mixed", "allocated", "completing")  # in which a node takes jobs, now or when there is room


def examine_cluster() -> Iterator[Finding]:
    """Look at SLURM where its commands are; each is asked once and given ten seconds."""
    found = [name for name in _COMMANDS if shutil.which(name)]
    if not found:
        yield Finding("cluster", "SLURM", "no commands found; runs start here, or with torchrun")
    else:
        missing = [name for name in _COMMANDS if name not in found]
        mend = f"load the cluster's SLURM module: {', '.join(missing)} not on PATH" if missing else None
        yield Finding("cluster", "SLURM", ", ".join(found), mend)
        if not missing:
            yield _controller()
            yield _accounting()
            yield from _partitions()
    yield _cluster_file()


def _controller() -> Finding:
    try:
        said = " ".join(slurm.ask("scontrol", "ping").split())
    except slurm.NoAnswer as error:
        return Finding(
            "cluster", "controller", str(error), "ask the cluster's administrators; until then nothing starts"
        )
    mend = None if " UP" in said else "ask the cluster's administrators; until then nothing starts"
    return Finding("cluster", "controller", said, mend)


def _accounting() -> Finding:
    """A cluster without accounting is no mistake of the person who asks, so nothing is prescribed."""
    try:
        slurm.ask("sacct", "-n", "-X", "-o", "JobID")
    except slurm.NoAnswer as error:
        lost = "how killed jobs ended is forgotten minutes later, and trichord status then calls their runs lost"
        return Finding("cluster", "accounting", f"{error}; without it {lost}")
    return Finding("cluster", "accounting", "answers: how killed jobs ended is known")


def _partitions() -> Iterator[Finding]:
    try:
        text = slurm.ask("sinfo", "-h", "-o", "%P|%l|%a|%T|%D|%G")
    except slurm.NoAnswer as error:
        yield Finding("cluster", "partitions", str(error), "sinfo")
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
        told = f"{up} of {total} nodes up, time limit {limit}, {gpus}" + f"; {availability}" * (availability != "up")
        what = f"partition {name.rstrip('*')}" + " (default)" * name.endswith("*")
        yield Finding("cluster", what, told if is_usable else f"{told}: jobs wait there")
    if not rows:
        yield Finding("cluster", "partitions", "none that you may see", "ask the cluster's administrators for access")


def _cluster_file() -> Finding:
    path = default_path()
    try:
        settings = load_cluster_file(None)
    except UserError as error:
        return Finding("cluster", "cluster file", str(error), f"edit {path}")
    if not path.is_file():
        return Finding("cluster", "cluster file", f"none at {path}; jobs ask for what is typed after launch")
    return Finding("cluster", "cluster file", f"{path}: {', '.join(settings) or 'empty'}")
