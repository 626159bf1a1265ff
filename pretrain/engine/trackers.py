"""Where figures go besides metrics.jsonl: TensorBoard and Weights & Biases, each only when the recipe asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from trichord.core.errors import UserError

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
