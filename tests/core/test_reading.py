"""Reading files of any origin: within limits, without waiting, and with the reason where they are refused."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trichord.core.errors import UserError
from trichord.core.reading import DEEPEST, parse_json, read_bytes, read_json, read_object, read_text, reason, skipping


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 << 30)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "it is a pipe, a socket or a device"),
        (os.mkdir, "it is a folder"),
        (sparse, "it has 6,442,450,944 bytes, expected at most 1,000"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"x" * 1001), "it has 1,001 bytes"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_small_file_is_refused_with_the_reason(
    make: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError) as caught:
        read_bytes(tmp_path / "file", 1000)
    assert why in reason(caught.value)


def test_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    assert read_bytes(tmp_path / "file", 1000) == b"x" * 1000


def test_file_that_does_not_know_its_size_is_read_up_to_the_limit() -> None:
    """Those of /proc have size 0."""
    with pytest.raises(OSError, match="expected at most 10"):
        read_bytes(Path("/proc/self/stat"), 10)


def test_text_is_utf_8_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa")
    assert read_text(tmp_path / "file") == "a"
    (tmp_path / "file").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match="not UTF-8 at byte 2"):
        read_text(tmp_path / "file")


@pytest.mark.parametrize("value", [{"a": [1, -2.5, "é😀", None, True]}, [], "x", 10**299, {"a": {"b": [[[1]]]}}])
def test_ordinary_json_is_parsed_as_python_does(value: Any) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        for is_ascii in (True, False):
            assert parse_json(json.dumps(value, ensure_ascii=is_ascii).encode(encoding)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ("[" * 1_000_000, "deeper than 64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 64"),
        ("NaN", "NaN, which is not finite"),
        ('{"a": [-Infinity]}', "-Infinity, which is not finite"),
        ("1e999", "1e999, which is not finite"),
        ("9" * 301, "301 digits"),
        ("9" * 5000, "5000 digits"),
        ('["\\ud83d"]', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "can't decode"),
        (b"\xff\xfe\xfd", "truncated data"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_no_later_use_can_bear_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_deepest_json_is_parsed_and_any_numbers_where_they_are_allowed() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)
    assert parse_json(json.dumps([[]] * 100)) == [[]] * 100
    assert parse_json('[Infinity, 1e999, "\\ud83d\\ude00"]', any_numbers=True) == [float("inf"), float("inf"), "😀"]


def test_object_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json cannot be read: it holds list, expected an object\. Next: x"):
        read_object(path, "Next: x")
    path.write_text('{"a": NaN}')
    assert list(read_object(path)) == ["a"]
    with pytest.raises(ValueError, match="not finite"):
        read_json(path)


def test_sparse_file_takes_no_memory(tmp_path: Path) -> None:
    sparse(tmp_path / "file")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match="6,442,450,944"):
        read_bytes(tmp_path / "file")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


def test_unreadable_ones_are_left_out_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    def read(name: str) -> str:
        if name.startswith("bad"):
            raise UserError(f"{name} is bad \x1b[2J")
        return name.upper()

    assert skipping(["a", "bad1", "b", "bad2"], read) == (["A", "B"], 2)
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"warning: left out: bad{n} is bad \\x1b[2J" for n in (1, 2)]
    with pytest.raises(UserError, match="bad1"):
        skipping(["bad1", "bad2"], read)
