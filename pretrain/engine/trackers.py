"""Where figures go besides metrics.jsonl: TensorBoard and Weights & Biases, each only when the recipe asks for it.

The file metrics.jsonl in a run's folder: one JSON object a log step, readable while it grows, however it ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from trichord.core.errors import UserError
from trichord.core.files import whole_file

_WANDB_ID = "wandb_run_id.txt"


class Tracker(Protocol):
    """Takes the figures of a log step."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass figures on."""

    def close(self) -> None:
        """Hand over what is still held back."""


class TensorBoard:
    """Writes event files into the run's folder `tensorboard`; after a resume, later steps of old files are hidden."""

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
    """Logs to a Weights & Biases project, offline where WANDB_MODE says so; a resumed run goes on under its id."""

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
                f"log.wandb_project={project}: wandb does not start: {error}\n"
                "Next: wandb login, or without a network set WANDB_MODE=offline and `wandb sync` the folder later"
            ) from error
        id_file.write_text(f"{self._run.id}\n")
        # Steps that a killed run did are done again: wandb's own count must not go back, so the step is a figure.
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
            f"{setting} needs the package {package}, which is not installed ({error}).\n"
            f"Next: pip install {package}, or leave the setting out; metrics.jsonl is written either way"
        ) from error


FILE_NAME = "metrics.jsonl"

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Give the rows in order; a line that a kill tore in two is passed over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            row = _parse(line)
            if row is not None:
                yield row


def encode(row: Mapping[str, object]) -> str:
    """Write a row as one line; a figure that is not finite becomes null, and its name stays in `not_finite`."""
    broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    plain = {name: None if name in broken else value for name, value in row.items()}
    if broken:
        plain["not_finite"] = broken
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"


def keep_before(path: Path, start_step: int) -> Row:
    """Drop the rows from `start_step` on and whatever is torn, in one move; give the last row that stays, or nothing.

    Those steps were done after the last checkpoint by a run that was killed, and will be done again.
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


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
