"""The settings of a cluster job, and the file that holds a site's settings for all its jobs."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from trichord.core.errors import UserError, shown

_TIME = re.compile(r"(?:(?P<days>[0-9]{1,9})-)?(?P<rest>[0-9]{1,9}(?::[0-9]{1,9}){0,2})")
_EXPECTED_TIME = "minutes such as 90, or HH:MM:SS, or D-HH:MM:SS"
_RESERVED = {"nodes", "gpus-per-node", "ntasks-per-node", "cpus-per-task", "time", "mem", "partition", "account", "qos"}
_RESERVED |= {"constraint", "exclude", "array", "signal", "output", "error", "job-name", "open-mode", "requeue"}
_RESERVED |= {"chdir"}  # paths in recipes and --run are relative to the folder of the launch
_LONGEST_WARNING_S = 120  # enough to finish a step and save; a slower model sets signal_delay_s


class ClusterSettings(BaseModel):
    """The settings of a job. No default is specific to a cluster: what is null is left to SLURM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: PositiveInt = 1
    """Number of machines."""
    gpus_per_node: NonNegativeInt = 0
    """Number of GPUs of each machine; 0 trains on the CPU."""
    tasks_per_node: PositiveInt | None = None
    """Number of processes on each machine, by default one for each GPU."""
    cpus_per_task: PositiveInt | None = None
    """Number of CPU cores of each process, its data workers included."""
    mem_gb: PositiveFloat | None = None
    """Memory of each machine in GB."""
    time: str | None = None
    """Time limit of the job: minutes such as 90, or HH:MM:SS, or D-HH:MM:SS."""
    partition: str | None = None
    """SLURM partition that the job is submitted to."""
    account: str | None = None
    """SLURM account that the job is charged to."""
    qos: str | None = None
    """SLURM quality of service of the job."""
    constraint: str | None = None
    """Features that the nodes of the job must have."""
    exclude: str | None = None
    """Nodes that the job must not use."""
    signal_delay_s: PositiveInt | None = None
    """Seconds before the time limit at which the job saves, by default 120, or a quarter of a short job."""
    max_restarts: NonNegativeInt = 30
    """How often a job may restart, for any reason."""
    device: str | None = None
    """Type of the GPUs, such as h200, to check whether the model fits in their memory."""
    sbatch: dict[str, str | Literal[True]] = Field(default_factory=dict)
    """Further options of sbatch, by name; an option without a value is set to true."""
    setup: tuple[str, ...] = ()
    """Shell lines that run before the start, such as `module load cuda`."""
    srun: tuple[str, ...] = ()
    """Further options of srun."""

    @field_validator("time", "partition", "account", "qos", mode="before")
    @classmethod
    def _numbers_are_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("time")
    @classmethod
    def _time_can_be_read(cls, value: str | None) -> str | None:
        if value is not None and not read_minutes(value):
            raise ValueError(f"expected {_EXPECTED_TIME}")
        return value

    @field_validator("sbatch", mode="before")
    @classmethod
    def _sbatch_is_text(cls, value: object) -> object:
        return {name: cls._numbers_are_text(each) for name, each in value.items()} if isinstance(value, dict) else value

    @field_validator("sbatch")
    @classmethod
    def _sbatch_has_its_own_fields(cls, value: dict[str, str | Literal[True]]) -> dict[str, str | Literal[True]]:
        taken = sorted(_RESERVED & {name.replace("_", "-").lstrip("-") for name in value})
        if taken:
            raise ValueError(
                f"{', '.join(taken)} cannot be set here: trichord sets it, usually from a setting of its own"
            )
        return value

    @model_validator(mode="after")
    def _warning_leaves_time_to_work(self) -> ClusterSettings:
        minutes = self.minutes
        if minutes is not None and self.signal_delay_s is not None and self.signal_delay_s > minutes * 30:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} is more than half of time={self.time}: the job would save and "
                f"requeue before it made progress. Set at most {minutes * 30}, or a longer time"
            )
        return self

    @property
    def minutes(self) -> int | None:
        """The time limit of a job in minutes, or None."""
        return read_minutes(self.time) if self.time else None

    @property
    def tasks(self) -> int:
        """The number of processes per machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """The number of processes of a job."""
        return self.nodes * self.tasks

    @property
    def warning_s(self) -> int:
        """The seconds before its time limit at which a job saves."""
        if self.signal_delay_s is not None:
            return self.signal_delay_s
        return min(_LONGEST_WARNING_S, self.minutes * 15) if self.minutes else _LONGEST_WARNING_S


def read_minutes(text: str) -> int:
    """Parse a time as sbatch does, in minutes rounded up; return 0 if it is not a time."""
    found = _TIME.fullmatch(text)
    if not found:
        return 0
    parts = [int(part) for part in found["rest"].split(":")]
    if found["days"] is not None:  # days-hours, optionally with minutes and seconds
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(found["days"]) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + math.ceil(parts[2] / 60)
    return parts[0] + (math.ceil(parts[1] / 60) if len(parts) == 2 else 0)


def default_path() -> Path:
    """Return the path of the file that is read when none is named."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "trichord" / "cluster.yaml"


def load_cluster_file(path: Path | None) -> dict[str, Any]:
    """Read and validate a site's settings from `path`, or the default file if it exists; fill in no defaults."""
    from trichord.core.yaml_subset import load_yaml

    if path is None:
        path = default_path()
        if not path.is_file():
            return {}
    elif not path.is_file():
        raise UserError(f"--cluster-file {path} is not a file. Expected YAML such as: partition: gpu")
    found = load_yaml(path)
    make_settings(found, str(path))
    return found


def make_settings(values: Mapping[str, Any], where: str) -> ClusterSettings:
    """Validate settings; the error for an unknown name lists the known ones."""
    known = list(ClusterSettings.model_fields)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: unknown setting {name!r}.{hint}\nKnown: {', '.join(known)}")
    try:
        return ClusterSettings.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("\n".join(_describe(each, where) for each in error.errors())) from error


def _describe(error: Mapping[str, Any], where: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    name = ".".join(map(str, error["loc"]))
    return f"{where}: {name}: {message}, found {shown(error['input'])}" if name else f"{where}: {message}"
