"""What a job asks of a cluster, and the one file in which a site says it for all its jobs."""

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

from trichord.core.errors import UserError

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_EXPECTED_TIME = "minutes such as 90, or HH:MM:SS, or D-HH:MM:SS"
_OURS = {"nodes", "gpus-per-node", "ntasks-per-node", "cpus-per-task", "time", "mem", "partition", "account", "qos"}
_OURS |= {"constraint", "exclude", "array", "signal", "output", "error", "job-name", "open-mode", "requeue"}
_OURS |= {"chdir"}  # recipes and --run name paths from where the job was launched
_LONGEST_WARNING_S = 120  # enough to finish a step and save; a model that takes longer says so


class Settings(BaseModel):
    """What a job asks for. Nothing of anyone's cluster is a default: what stands here as None is left to SLURM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: PositiveInt = Field(1, description="machines of a job")
    gpus_per_node: NonNegativeInt = Field(0, description="GPUs of each machine; 0 trains on its CPU")
    tasks_per_node: PositiveInt | None = Field(None, description="processes of each machine (default: one a GPU)")
    cpus_per_task: PositiveInt | None = Field(None, description="cores of each process; data workers need some")
    mem_gb: PositiveFloat | None = Field(None, description="memory of each machine, in GB")
    time: str | None = Field(None, description=f"limit of a job: {_EXPECTED_TIME}")
    partition: str | None = Field(None, description="of the queue")
    account: str | None = Field(None, description="that pays")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that a machine must have")
    exclude: str | None = Field(None, description="machines to stay away from")
    signal_delay_s: PositiveInt | None = Field(
        None, description="seconds before the limit at which a job saves (default: 120, or a quarter of a short job)"
    )
    max_restarts: NonNegativeInt = Field(30, description="how often a job may begin again, for whatever reason")
    device: str | None = Field(None, description="the GPUs' kind, such as h200, to see whether a model fits")
    sbatch: dict[str, str | Literal[True]] = Field(
        default_factory=dict, description="further options of sbatch; those without a value are true"
    )
    setup: tuple[str, ...] = Field((), description="shell lines before the start, such as `module load cuda`")
    srun: tuple[str, ...] = Field((), description="further options of srun")

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
        taken = sorted(_OURS & {name.replace("_", "-").lstrip("-") for name in value})
        if taken:
            raise ValueError(
                f"{', '.join(taken)} cannot be set here: trichord sets it, mostly from a setting of its own"
            )
        return value

    @model_validator(mode="after")
    def _warning_leaves_time_to_work(self) -> Settings:
        minutes = self.minutes
        if minutes is not None and self.signal_delay_s is not None and self.signal_delay_s > minutes * 30:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} is more than half of time={self.time}: the job would save and "
                f"requeue before it got anywhere. Set at most {minutes * 30}, or a longer time"
            )
        return self

    @property
    def minutes(self) -> int | None:
        """The limit of a job."""
        return read_minutes(self.time) if self.time else None

    @property
    def tasks(self) -> int:
        """Processes of each machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks

    @property
    def warning_s(self) -> int:
        """How long before its end a job saves."""
        if self.signal_delay_s is not None:
            return self.signal_delay_s
        return min(_LONGEST_WARNING_S, self.minutes * 15) if self.minutes else _LONGEST_WARNING_S


def read_minutes(text: str) -> int:
    """Read a time as sbatch does, rounded up; 0 where it is none."""
    found = _TIME.fullmatch(text)
    if not found:
        return 0
    parts = [int(part) for part in found["rest"].split(":")]
    if found["days"] is not None:  # days-hours, and smaller from there
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(found["days"]) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + math.ceil(parts[2] / 60)
    return parts[0] + (math.ceil(parts[1] / 60) if len(parts) == 2 else 0)


def default_path() -> Path:
    """Say where the file is looked for when none is named."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "trichord" / "cluster.yaml"


def load_cluster_file(path: Path | None) -> dict[str, Any]:
    """Read a site's settings: the file named, or the one in its place, or none; checked, but still to be completed."""
    from trichord.pretrain.recipe_file import read_recipe

    if path is None:
        path = default_path()
        if not path.is_file():
            return {}
    elif not path.is_file():
        raise UserError(f"--cluster-file {path} is no file. Expected YAML such as: partition: gpu")
    found = read_recipe(path)
    make_settings(found, str(path))
    return found


def make_settings(values: Mapping[str, Any], where: str) -> Settings:
    """Check settings; a mistake is told with all that there are."""
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: no setting {name!r}.{hint}\nKnown: {', '.join(known)}")
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("\n".join(_word(each, where) for each in error.errors())) from error


def _word(error: Mapping[str, Any], where: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    name = ".".join(map(str, error["loc"]))
    return f"{where}: {name}: {message}, found {error['input']!r}" if name else f"{where}: {message}"
