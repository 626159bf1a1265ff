"""Reads the tensors of a checkpoint file without executing code from it."""

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

# Keys of weights in files, in order of preference: the teacher is better than the student.
PARTS = ("teacher", "student", "model_state", "state_dict", "model")
_OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # of torch.save before it wrote zip files


class _PlainDict:
    """Replaces a dict class that is not imported; the result is an OrderedDict, which torch allows."""

    def __new__(cls) -> Any:
        return OrderedDict()


# Additional classes in files that are safe to load, as they run no code. SVT's and DINO's checkpoints hold their
# command line in a Namespace, which only stores values; X-CLIP's hold their config in nodes of yacs, which are dicts.
_INERT: list[Any] = [
    argparse.Namespace,
    (_PlainDict, "yacs.config.CfgNode"),
]


def read_tensors(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file, or of one part if it has several, with the names in the file."""
    if path.is_dir():  # as saved by Hugging Face, now and formerly
        current, former = path / "model.safetensors", path / "pytorch_model.bin"
        path = former if former.is_file() and not current.is_file() else current
    if not path.is_file():
        raise UserError(f"found no file {path}; expected weights as .safetensors, .pth, .pyth, .pt or .bin")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a complete safetensors file ({error}); download it again") from error
    return _choose(_load(path), part, path)


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_old = file.read(len(_OLD_MAGIC)) == _OLD_MAGIC
    if not is_old and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a complete file of torch.save; expected a file of torch.save or .safetensors")
    if _is_torchscript(path):
        raise UserError(_refusal_of_torchscript(path))
    with torch.serialization.safe_globals(_INERT):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise UserError(_refusal(path)) from error
        except (RuntimeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
            raise UserError(f"{path} is a damaged file of torch.save ({error}); download it again") from error


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript program with weights, as OpenAI releases CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refusal_of_torchscript(path: Path) -> str:
    out = path.with_suffix(".safetensors")
    return (
        f"{path} is a TorchScript program, like OpenAI's CLIP files, and trichord runs no code from weight files. "
        "If you trust its source, extract the tensors:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.jit.load("{path}", map_location="cpu").state_dict(); '
        f's.save_file({{n: t.contiguous() for n, t in found.items()}}, "{out}")\'\n'
        f"then use {out}."
    )


def _refusal(path: Path) -> str:
    needs = ""
    if zipfile.is_zipfile(path):
        with torch.serialization.safe_globals(_INERT):
            needs = ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    code = needs or "code beyond that for plain values"
    out = path.with_suffix(".safetensors")
    return (
        f"{path} would run {code}, and trichord runs no code from weight files. If you trust its source, extract the "
        "tensors on a machine without valuable data:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.load("{path}", weights_only=False, map_location="cpu"); '
        f's.save_file({{n: t.contiguous() for n, t in found["{PARTS[2]}"].items()}}, "{out}")\'\n'
        f"(with the part that holds the weights, such as {', '.join(PARTS)}); then use {out}."
    )


def _choose(found: Any, part: str | None, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}; expected a dict of tensors")
    parts = [str(name) for name, value in found.items() if isinstance(value, dict) and _tensors(value)]
    if part is not None and part not in parts:
        raise UserError(
            f"{path} has no part {part}; found {', '.join(parts) or 'none'}. Omit the part, or name one of these."
        )
    part = part or next((name for name in PARTS if name in parts), None)  # the file may have scalar tensors as well
    if part is None and _tensors(found):
        return _tensors(found)
    if part is None:
        raise UserError(f"{path} holds tensors in none of {', '.join(PARTS)}; found {', '.join(map(str, found))}")
    return _tensors(found[part])


def _tensors(values: dict[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
