"""Mutants that pass the first checks of a format: a header, a member or a pickle is edited and packed again."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.fuzzing.mutation import mutate

_DEEP = json.loads("[" * 90 + "]" * 90)
_ODD = (None, True, -1, 0, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 70, 1e308, float("nan"), "", "\ud800", "\x1b[2J")
_ODDITIES: tuple[Any, ...] = (*_ODD, "../../x", "F4", "C64", "I64", [], {}, [-1], [1] * 70, [0, 1 << 40], _DEEP)
_NAMES = ("", "../x", "\x1b]0;x\x07", "a" * 5000, "\ud800", "backbone.cls_token", "__metadata__", "1e9")
_PIECES = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n(X\x01\x00\x00\x001tR",
    b"c__builtin__\nbytearray\nK\x05\x85R",
    b"ctorch\nFloatStorage\n",
    b")" + b"\x85" * 50_000,
    b"\x8a\x09" + b"\xff" * 8 + b"\x7f",  # a whole number beyond 64 bits
    b"J\xff\xff\xff\x7f",
    b"J\x00\x00\x00\x80",
    b"X\xff\xff\xff\x7fa",
    b"X\x03\x00\x00\x00\xed\xa0\x80",  # half of a surrogate pair
    b"r\xff\xff\xff\x7f",
    b"}",
    b"]",
    b"N",
    b"(",
    b"0",
    b"Q",
    b"R",
    b"t",
    b"s",
)


def forge(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Return an edited copy of a file; by its bytes, or, if there is an editor for its kind, also by its structure."""
    suffix = name.rpartition(".")[2]
    edit = _EDITORS.get(suffix)
    if edit is None or rng.random() < 0.3:
        return mutate(data, rng)
    return edit(data, rng)


def _choice(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def edit_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace, remove or rename some values of a JSON document."""
    tree = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        _edit_tree(tree, rng)
    text = json.dumps(tree)
    if rng.random() < 0.1:
        text = text[:-1] + "," + text[1:]  # every key twice
    return text.encode()


def _edit_tree(tree: Any, rng: np.random.Generator) -> None:
    while isinstance(tree, dict | list) and tree:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = _choice(rng, keys)
        inner = tree[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            break
        tree = inner
    else:
        return
    match int(rng.integers(6)):
        case 0:
            del tree[key]
        case 1 if isinstance(tree, dict):
            tree[_choice(rng, _NAMES)] = tree.pop(key)
        case 2 if isinstance(tree, dict):
            tree[_choice(rng, _NAMES)] = copy.deepcopy(tree[key])
        case 3 if isinstance(inner, int):
            tree[key] = inner + int(rng.integers(-9, 10))
        case _:
            tree[key] = copy.deepcopy(_choice(rng, _ODDITIES))


def edit_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Edit the header, and say its length."""
    size = int.from_bytes(data[:8], "little")
    header = edit_json(data[8 : 8 + size], rng)
    if rng.random() < 0.1:
        header = b"[" * 10_000 + header
    rest = data[8 + size :]
    return len(header).to_bytes(8, "little") + header + (rest + bytes(1000) if rng.random() < 0.1 else rest)


def edit_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """Remove, repeat, exchange or insert steps."""
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    pieces = [data[first:last] for first, last in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(int(rng.integers(1, 5))):
        at, other = (int(rng.integers(1, len(pieces))) for _ in range(2))
        match int(rng.integers(5)):
            case 0:
                pieces[at] = b""
            case 1:
                pieces.insert(at, pieces[other])
            case 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                pieces[at] = _choice(rng, _PIECES)
            case _:
                pieces.insert(at, _choice(rng, _PIECES))
    return b"".join(pieces)


def edit_legacy(data: bytes, rng: np.random.Generator) -> bytes:
    """Edit one of the pickles with which a file of torch.save began before it was a zip archive."""
    file, ends = io.BytesIO(data), [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    number = int(rng.choice([1, 2, 3, 3, 3, 3, 4]))
    first, last = ends[number : number + 2]
    return data[:first] + edit_pickle(data[first:last], rng) + data[last:]


def edit_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """Edit members of a zip archive and pack them again, with the right checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    pickles = [number for number, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    at = pickles[0] if pickles and rng.random() < 0.7 else int(rng.integers(len(members)))
    name, content = members[at]
    compression = zipfile.ZIP_STORED
    match int(rng.integers(8)):
        case 0:
            del members[at]
        case 1:
            members.append((_choice(rng, ["x/data.pkl", "archive/constants.pkl", "../../x", name, "é"]), content))
        case 2:
            compression = zipfile.ZIP_DEFLATED
            members[at] = (name, content + bytes(1 << 22))
        case 3:
            members[at] = (name, content[: len(content) // 2])
        case 4:
            members[at] = (name, mutate(content, rng))
        case _:
            members[at] = (name, (edit_pickle if name.endswith("data.pkl") else mutate)(content, rng))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return packed.getvalue()


_EDITORS: Mapping[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "json": edit_json,
    "safetensors": edit_safetensors,
    "pt": edit_zip,
    "pth": edit_legacy,
    "npz": edit_zip,
}
