"""Exports a run's weights to common formats, reads them back and compares."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trichord.core.command import unknown_name
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.reading import mistake
from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.pretrain.backbones.registry import AUDIO_BACKBONES, BACKBONES
from trichord.pretrain.backbones.spec import AudioBackboneSpec, BackboneSpec
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex, TornCheckpoint
from trichord.pretrain.weights.file import stream_tensors


def newest_checkpoint(run: Path) -> tuple[Path, CheckpointIndex]:
    """Return the newest complete checkpoint of a run, verified by checksums."""
    torn = []
    for path in checkpoint_files.checkpoints_in(RunFolder(run).checkpoints):
        try:
            index = checkpoint_files.read_index(path)
            for name, entry in index.files.items():
                checkpoint_files.check_file(path, name, entry)
        except (TornCheckpoint, OSError) as error:
            torn.append(str(error))
            continue
        return path, index
    why = f" ({torn[0]})" if torn else ""
    raise UserError(f"{run} holds no complete checkpoint; expected {RunFolder(run).checkpoints}/step_…{why}")


def read_part(
    run: Path, part: str | None = None, read: Callable[[Any], RunConfig] = RunConfig.model_validate
) -> tuple[dict[str, Tensor], RunConfig, int]:
    """Read one network's weights, by their names within it, from a run's newest checkpoint; with its config and step.

    `read` parses the config that is stored in the checkpoint.
    """
    path, index = newest_checkpoint(run)
    try:
        config = read(index.config)
    except ValidationError as error:
        raise UserError(f"{path / checkpoint_files.INDEX} holds settings of no run: {mistake(error)}") from error
    parts = config.objective.parts
    part = part or parts[0]
    if part not in parts:
        raise UserError(unknown_name(f"a run of {config.objective.kind} has no part", part, parts))
    names = sorted(name for name in index.files if name.startswith("weights-"))
    try:
        tensors = {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in checkpoint_files.read_tensors(path, names)
            if name.startswith(f"{part}.")
        }
    except TornCheckpoint as error:
        raise UserError(str(error)) from error
    return tensors, config, index.step


def run_export(arguments: Namespace, read: Callable[[Any], RunConfig] = RunConfig.model_validate) -> int:
    """Export a run's weights; `read` parses the config stored in a checkpoint."""
    row = export(arguments.run_folder, arguments.format, arguments.part, arguments.out, read)
    show_figures("exported, loaded back and compared", [row], arguments.json)
    return 0


def export(
    run: Path,
    layout: str,
    part: str | None,
    out: Path | None,
    read: Callable[[Any], RunConfig] = RunConfig.model_validate,
) -> dict[str, Any]:
    """Export one network in a layout; return a summary of what was written."""
    tensors, config, step = read_part(run, part, read)
    part = part or config.objective.parts[0]
    spec = config.backbone_of(part)
    about = {"step": str(step), "backbone": json.dumps(spec.model_dump(mode="json"))}
    if layout == "hf":
        folder = out or run / f"{part}-hf"
        tensors, hugging_face_config = _as_hugging_face(tensors, spec)
        path = folder / "model.safetensors"
        _write_and_compare(tensors, about, path)
        write_whole(folder / "config.json", json.dumps(hugging_face_config, indent=2) + "\n")
    else:
        path = out or run / f"{part}.safetensors"
        _write_and_compare(tensors, about, path)
    values = sum(tensor.numel() for tensor in tensors.values())
    return {"path": str(path), "part": part, "step": step, "tensors": len(tensors), "values": values}


def _as_hugging_face(
    tensors: dict[str, Tensor], spec: BackboneSpec | AudioBackboneSpec
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a backbone with the names that transformers' `from_pretrained` expects, and the content of config.json."""
    if not spec.hugging_face:
        known = [name for name, each in (*BACKBONES.items(), *AUDIO_BACKBONES.items()) if each.hugging_face]
        raise UserError(
            f"cannot export a backbone of kind '{spec.kind}' for Hugging Face's transformers, only {', '.join(known)}. "
            "Next: trichord export RUN --format safetensors"
        )
    converted: tuple[dict[str, Tensor], dict[str, Any]] = load(spec.hugging_face)(tensors, spec)
    return converted


def _write_and_compare(tensors: dict[str, Tensor], about: dict[str, str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")  # so that only a complete file has the final name
    try:
        checkpoint_files.save_tensors(unfinished, tensors, {"format": "pt", **about})
        back = dict(stream_tensors(unfinished))
        if back.keys() != tensors.keys() or not all(torch.equal(back[name], tensors[name]) for name in tensors):
            raise RuntimeError(f"{path} differs from what was written to it; check the disk")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
