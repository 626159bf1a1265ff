"""Reads the tensors of a checkpoint file without executing anything of it."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trichord.core.errors import UserError

# Where files keep their weights, and in this order where there are several: the teacher is the better network.
PARTS = ("teacher", "student", "model_state", "state_dict", "model")
_OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # torch.save's before it made zip files


class _PlainDict:
    """Stands for a class of dict that is not asked for: what would be made of it is a dict of torch's own list."""

    def __new__(cls) -> Any:
        return OrderedDict()


# What files keep beside their weights and needs no code of its own to be read past. SVT's and DINO's checkpoints hold
# their command line in a Namespace, a plain holder of values; X-CLIP's their config in nodes of yacs, which are dicts.
_INERT: list[Any] = [
    argparse.Namespace,
    (_PlainDict, "yacs.config.CfgNode"),
]


def read_tensors(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """Read a file's tensors by the names they have there, of one part where it has several."""
    if path.is_dir():  # as Hugging Face saves a model, now and in former times
        whole, former = path / "model.safetensors", path / "pytorch_model.bin"
        path = former if former.is_file() and not whole.is_file() else whole
    if not path.is_file():
        raise UserError(f"found no file {path}; expected weights as .safetensors, .pth, .pyth, .pt or .bin")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no whole safetensors file ({error}); fetch it again") from error
    return _choose(_load(path), part, path)


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_old = file.read(len(_OLD_MAGIC)) == _OLD_MAGIC
    if not is_old and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no whole file of torch.save; expected weights there, or a .safetensors file")
    if _is_torchscript(path):
        raise UserError(_refusal_of_torchscript(path))
    with torch.serialization.safe_globals(_INERT):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise UserError(_refusal(path)) from error
        except (RuntimeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
            raise UserError(f"{path} is a torn file of torch.save ({error}); fetch it again") from error


def _is_torchscript(path: Path) -> bool:
    """Say whether a file is a program with its weights, as OpenAI releases CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refusal_of_torchscript(path: Path) -> str:
    out = path.with_suffix(".safetensors")
    return (
        f"{path} is a TorchScript program, as OpenAI's CLIP files are, and nothing in a file of weights is run here. "
        "If you trust who made it, keep its tensors alone:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.jit.load("{path}", map_location="cpu").state_dict(); '
        f's.save_file({{n: t.contiguous() for n, t in found.items()}}, "{out}")\'\n'
        f"then give {out}."
    )


def _refusal(path: Path) -> str:
    needs = ""
    if zipfile.is_zipfile(path):
        with torch.serialization.safe_globals(_INERT):
            needs = ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    wants = f"wants to run {needs or 'more than plain values need'}"
    out = path.with_suffix(".safetensors")
    return (
        f"{path} {wants}, and nothing in a file of weights is run here. If you trust who made it, keep its tensors "
        "alone, on a machine with nothing to lose:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.load("{path}", weights_only=False, map_location="cpu"); '
        f's.save_file({{n: t.contiguous() for n, t in found["{PARTS[2]}"].items()}}, "{out}")\'\n'
        f"(with the part that holds the weights, such as {', '.join(PARTS)}); then give {out}."
    )


def _choose(found: Any, part: str | None, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}; expected tensors by name")
    parts = [str(name) for name, value in found.items() if isinstance(value, dict) and _tensors(value)]
    if part is not None and part not in parts:
        raise UserError(f"{path} has no part {part}; found {', '.join(parts) or 'none'}. Leave part out, or name one.")
    part = part or next((name for name in PARTS if name in parts), None)  # beside which figures may stand as tensors
    if part is None and _tensors(found):
        return _tensors(found)
    if part is None:
        raise UserError(f"{path} holds tensors in none of {', '.join(PARTS)}; found {', '.join(map(str, found))}")
    return _tensors(found[part])


def _tensors(values: dict[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
