"""Output of a run's figures: the console line, metrics.jsonl, and TensorBoard and Weights & Biases if enabled.

metrics.jsonl in the run's folder has one JSON object per log step. It is readable while it is written and after a kill.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from trichord.core.errors import UserError
from trichord.core.files import whole_file
from trichord.core.reading import open_regular, parse_json, reason
from trichord.core.run_folder import RunFolder

_WANDB_ID = "wandb_run_id.txt"


class Tracker(Protocol):
    """Receives the figures of each log step."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoard:
    """Writes event files to `tensorboard` in the run's folder; a resume hides later steps in old files."""

    def __init__(self, run: Path, start_step: int) -> None:
        module = _optional("torch.utils.tensorboard", "tensorboard", "log.tensorboard=true")
        self._writer = module.SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=start_step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Logs to a Weights & Biases project, offline if WANDB_MODE is set so; a resumed run continues under its id."""

    def __init__(self, run: Path, project: str, about: Mapping[str, object]) -> None:
        wandb = _optional("wandb", "wandb", f"log.wandb_project={project}")
        id_file = run / _WANDB_ID
        known = id_file.read_text().strip() if id_file.exists() else None
        try:
            self._run: Any = wandb.init(
                project=project, name=run.resolve().name, id=known, resume="allow", dir=str(run), config=dict(about)
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"log.wandb_project={project}: wandb failed to start: {error}\n"
                "Next: wandb login; without a network, set WANDB_MODE=offline and run `wandb sync` on the folder later"
            ) from error
        id_file.write_text(f"{self._run.id}\n")
        # After a kill, steps are repeated: wandb's own step must not decrease, so the step is logged as a figure.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        self._run.finish()


def _optional(module: str, package: str, setting: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{setting} requires the package {package}, which cannot be imported ({error}).\n"
            f"Next: pip install {package}, or remove the setting; metrics.jsonl is written either way"
        ) from error


_LARGEST_METRICS = 1 << 32
_LONGEST_ROW = 1 << 20
FILE_NAME = RunFolder(Path()).metrics.name

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows in order; an incomplete line, left by a kill, is skipped. Raise UserError for no file of rows."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST_METRICS:
                raise OSError(errno.EFBIG, f"it has {size:,} bytes, expected at most {_LARGEST_METRICS:,}")
            while line := file.readline(_LONGEST_ROW):
                row = _parse(line)
                if row is not None:
                    yield row
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def encode(row: Mapping[str, object]) -> str:
    """Return a row as one line; a figure that is not finite becomes null, and its name is listed in `not_finite`."""
    broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    plain = {name: None if name in broken else value for name, value in row.items()}
    if broken:
        plain["not_finite"] = broken
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"


def keep_before(path: Path, start_step: int) -> Row:
    """Drop rows from `start_step` on and incomplete lines, atomically; return the last remaining row, or {}.

    A killed run did those steps after its last checkpoint, and they will be repeated.
    """
    last: Row = {}
    if not path.exists():
        return last
    with whole_file(path) as file:
        for row in read_rows(path):
            if row["step"] < start_step:
                file.write(encode(row).encode())
                last = row
    return last


def last_figures(path: Path) -> Row:
    """Return the figures of the last complete row of a file, without its times; {} if there is none."""
    last: Row = {}
    if path.exists():
        for row in read_rows(path):
            last = row
    return {name: value for name, value in last.items() if name not in ("time_s", "run_s")}


def _parse(line: bytes) -> Row | None:
    try:
        row = parse_json(line.decode(errors="replace"))
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


_LOSSES_WIDTH = 52  # further parts of the loss are only in metrics.jsonl
_PART = "loss/"


def step_line(row: Mapping[str, object]) -> str:
    """Format a row of figures as one line; missing figures are left out."""
    numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
    fields = [_progress(numbers), "  ".join(_losses(numbers)), *_speed(numbers)]
    for name, format_value in _FORMATS.items():
        if name in numbers:
            fields.append(format_value(numbers[name]))
    return "  ".join(word for word in fields if word)


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if whole >= 10 else f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _progress(numbers: Mapping[str, float]) -> str:
    done, steps = int(numbers["step"]) + 1, int(numbers["steps"])
    return f"step {done:>{len(str(steps))}}/{steps} {100 * done / steps:.1f}%"


def _losses(numbers: Mapping[str, float]) -> Iterator[str]:
    room = _LOSSES_WIDTH
    for name in ("loss", *(name for name in numbers if name.startswith(_PART))):
        if name in numbers:
            word = f"{name.removeprefix(_PART)} {numbers[name]:.4g}"
            room -= len(word) + 2
            if room >= 0:
                yield word


def _speed(numbers: Mapping[str, float]) -> Iterator[str]:
    if "learning_rate" in numbers:
        yield f"lr {numbers['learning_rate']:.1e}"
    if "clips_per_s" in numbers:
        each = numbers.get("clips_per_s_device", numbers["clips_per_s"])
        is_one = each == numbers["clips_per_s"]
        yield f"{_rate(numbers['clips_per_s'])} clips/s" + ("" if is_one else f" ({_rate(each)} each)")
    if "step_s" in numbers:
        yield f"{numbers['step_s']:.3g} s"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"


_FORMATS: dict[str, Callable[[float], str]] = {
    "data_wait_share": lambda value: f"wait {_percent(value)}",
    "mfu": lambda value: f"MFU {_percent(value)}",
    "memory_gib": lambda value: f"{value:.1f} GiB",
    "bad_share": lambda value: f"bad {_percent(value)}",
    "silent_share": lambda value: f"silent {_percent(value)}",
    "aside_s": lambda value: f"aside {duration(value)}" if value >= 0.1 else "",
    "eta_s": lambda value: f"{duration(value)} left",
}
