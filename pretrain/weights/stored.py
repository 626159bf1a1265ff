"""What the pickles of torch.save describe: tensors, other objects, and the calls that would make them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from typing import Any

import torch

_MOST_DIMENSIONS = 16


class BadPickle(Exception):
    """Raised for a pickle that torch.save would not have written."""


@dataclass(frozen=True)
class GlobalName:
    """The name of a class or function."""

    name: str


@dataclass(frozen=True)
class OtherObject:
    """An object that is neither a plain value nor a tensor."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """Numbers in a file, from element `first` on; of bytes if its pickle says no type."""

    key: str
    dtype: torch.dtype
    count: int
    first: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def storage_of(description: object) -> tuple[Storage, Storage]:
    """Return the storage that a persistent id describes, and the part of it that is meant."""
    match description:
        case ("storage", GlobalName(kind), str(key), str(), int(count), *view) if count >= 0:
            dtype = _STORAGES.get(kind)
        case _:
            raise BadPickle("its pickle describes a storage in an unknown way")
    if dtype is None:
        raise BadPickle(f"its pickle holds a storage of type {kind[:80]}, expected one of numbers")
    whole = Storage(key, dtype, count)
    match view:
        case [] | [None]:
            return whole, whole
        case [(str(), int(first), int(length))] if 0 <= first <= first + length <= count:
            return whole, Storage(key, dtype, length, first)
    raise BadPickle("its pickle describes a part of a storage in an unknown way")


def called(function: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a call would make, without calling."""
    if function == _OF_SUBCLASS:  # of a tensor with attributes: (function, class, its arguments, attributes)
        match arguments:
            case (GlobalName(inner), _, tuple(own), *_) if inner != _OF_SUBCLASS:
                function, arguments = inner, own
            case _:
                raise BadPickle("its pickle rebuilds a tensor in an unknown way")
    if function in _REBUILD_TENSOR:
        return _stored_tensor(arguments)
    if function in _REBUILD_PARAMETER:
        match arguments:
            case (StoredTensor() as tensor, *_):
                return tensor
        raise BadPickle("its pickle rebuilds a parameter in an unknown way")
    if function in _DICTS:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list | tuple) and _is_pair(pair)}
    return OtherObject(function)


def _is_pair(pair: list[Any] | tuple[Any, ...]) -> bool:
    return len(pair) == 2 and isinstance(pair[0], str | int)


def _stored_tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *rest):
            numbers = (offset, *shape, *strides)
            if len(shape) != len(strides) or not all(type(each) is int and each >= 0 for each in numbers):
                raise BadPickle("its pickle describes a tensor by sizes that are no numbers of at least 0")
            if len(shape) > _MOST_DIMENSIONS:
                raise BadPickle(f"it holds a tensor of {len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
            # Types without a storage of their own are named after `requires_grad` and hooks.
            named = _DTYPES.get(rest[2].name) if len(rest) > 2 and isinstance(rest[2], GlobalName) else None
            return StoredTensor(storage, offset, shape, strides, named or storage.dtype)
    raise BadPickle("its pickle describes a tensor in an unknown way")


def current_name(module: str, name: str) -> str:
    """Return the full name, in Python 3 also where a pickle uses that of Python 2."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


_STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}
_DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
_REBUILD_TENSOR = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_REBUILD_PARAMETER = {f"torch._utils._rebuild_parameter{more}" for more in ("", "_with_state")}
_OF_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
# SVT's and DINO's checkpoints hold their command line in a Namespace, X-CLIP's their config in nodes of yacs.
_DICTS = {"collections.OrderedDict", "yacs.config.CfgNode"}
KNOWN = {
    *_STORAGES,
    *_DTYPES,
    *_REBUILD_TENSOR,
    *_REBUILD_PARAMETER,
    _OF_SUBCLASS,
    *_DICTS,
    *("_codecs.encode", "argparse.Namespace", "builtins.bytearray", "builtins.complex", "builtins.set"),
    *("collections.Counter", "torch.Size", "torch.device", "torch.nn.parameter.Parameter"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
}
