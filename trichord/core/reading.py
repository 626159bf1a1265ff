"""Reading of files of any origin: only regular files, of bounded size, and JSON without what no later use can bear.

In the place of a small file there may be anything: a folder, a pipe that never ends, a sparse file of terabytes, lists
within lists by the thousand. It is refused with a reason, in bounded time and memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from trichord.core.console import printable
from trichord.core.errors import UserError

if TYPE_CHECKING:
    from pydantic import ValidationError

P = TypeVar("P")
T = TypeVar("T")

SMALL_BYTES = 1 << 24  # of a file that is read at once, unless its reader sets another limit
DEEPEST = 64  # of lists and mappings within one another; Python's own code fails at some hundreds
_MOST_DIGITS = 300  # of a whole number: each fits into a float
_LONGEST_REASON = 300


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; raise OSError for a folder, a pipe or a device instead of waiting for its data."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, expected a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int = SMALL_BYTES) -> bytes:
    """Return the content of a file; raise OSError if it has more bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > most else file.read(most + 1)
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"it has {max(size, len(content)):,} bytes, expected at most {most:,}", str(path))
    return content


def read_text(path: Path, most: int = SMALL_BYTES) -> str:
    """Return the content of a text file; raise OSError as `read_bytes`, and ValueError if it is not UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from error


def read_json(path: Path, most: int = SMALL_BYTES, any_numbers: bool = False) -> Any:
    """Return what a JSON file holds; raise OSError as `read_bytes`, and ValueError as `parse_json`."""
    return parse_json(read_bytes(path, most), any_numbers)


def read_object(path: Path, advice: str = "") -> dict[str, Any]:
    """Return the object that a JSON file holds, with any numbers; raise UserError, which ends with the advice."""
    try:
        found = read_json(path, any_numbers=True)
        if isinstance(found, dict):
            return found
        problem = f"it holds {type(found).__name__}, expected an object"
    except (OSError, ValueError) as error:
        problem = reason(error)
    raise UserError(f"{path} cannot be read: {problem}. {advice}".rstrip())


def parse_json(text: str | bytes, any_numbers: bool = False) -> Any:
    """Parse JSON; raise ValueError also for what Python accepts but cannot walk through, write or calculate with.

    These are deep nesting, halves of surrogate pairs and, unless allowed, numbers that are not finite or have hundreds
    of digits.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        found = (_ANY_NUMBERS if any_numbers else _STRICT).decode(text)
    except RecursionError:
        _refuse_depth()
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(found)
    if "\\u" in text:
        _check_texts(found)
    return found


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
    if any(isinstance(each, dict | list) for each in level):
        _refuse_depth()


def _refuse_depth() -> NoReturn:
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        return iter(value.values())
    return iter(value) if isinstance(value, list) else iter(())


def _check_texts(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start : error.end])
        raise ValueError(f"a text holds {half}, half of a surrogate pair") from error


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, expected at most {_MOST_DIGITS}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found the number {text[:40]}, which is not finite")
    return value


_STRICT = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_finite)
_ANY_NUMBERS = json.JSONDecoder()


def skipping(paths: Iterable[P], read: Callable[[P], T]) -> tuple[list[T], int]:
    """Return what could be read of several paths, and how many could not, each with a warning; raise if none could."""
    found, errors = [], []
    for path in paths:
        try:
            found.append(read(path))
        except UserError as error:
            errors.append(error)
    if not found and errors:
        raise errors[0]
    for each in errors:
        print(f"warning: left out: {printable(str(each))}", file=sys.stderr)
    return found, len(errors)


def reason(error: Exception) -> str:
    """Return why a file could not be read or written, as part of a message that names it."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    text = text.partition("\n")[0].rstrip(".")
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"


def mistake(error: ValidationError) -> str:
    """Return the first mistake that pydantic found: its place, and what was expected there."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:_LONGEST_REASON] or "the file"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
