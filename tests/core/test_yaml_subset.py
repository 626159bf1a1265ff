"""The subset of YAML: hostile documents are refused with the line, in bounded time and memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.core.yaml_subset import load_yaml, read_yaml, write_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
HOSTILE = {
    "brackets": ("a: 1\nb: " + "[" * 5000, "line 2, column 67: nested deeper than 64 levels"),
    "braces": ("{a: " * 5000, "nested deeper than 64 levels"),
    "dashes": ("- " * 100_000, "nested deeper than 64 levels"),
    "part of itself": ("a: 1\nb: &me [*me]", "line 2, column 9: *me is part of itself"),
    "mapping in itself": ("&me {a: {b: *me}}", "*me is part of itself"),
    "laughs": (LAUGHS, "line 6, column 10: more than 100,000 values, with all that aliases repeat"),
    "many values": ("a: [" + "1," * 100_001 + "]", "more than 100,000 values"),
    "unknown alias": ("a: *you", "found undefined alias"),
    "NUL": ("a: 1\nb: x\0y", "line 2: the character '\\x00' is not allowed"),
    "escaped NUL": ('a: "x\\0y"', "a text holds '\\x00'"),
    "half a character": ('a: 1\nb: "\\ud800"', "line 2, column 4: a text holds '\\ud800'"),
    "no character": ('a: "\\U0011FFFF"', "not in range"),
    "undecodable": ("a: \udcff", "the character '\\udcff' is not allowed"),
    "tab": ("a:\n\tb: 1", "line 2, column 1: found character '\\t'"),
    "duplicate": ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' is a duplicate key"),
    "digits": ("a: 1\nb: " + "1" * 5000, "line 2, column 4: a number has 5,000 digits"),
    "list as a key": ("[a]: 1", "a key must be a name"),
    "long key": ("? " + "k" * 300 + "\n: 1", "a key has 300 characters"),
    "command": ("a: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not supported"),
    "own tag": ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system x", "line 3, column 4: the tag"),
    "time": ("a: !!timestamp x", "the tag !!timestamp is not supported"),
    "no number": ("a: !!int x", "expected int, found 'x'"),
    "no truth": ("a: !!bool x", "expected bool, found 'x'"),
    "no mapping": ("!!map [1]", "expected a mapping"),
    "no list": ("a: !!seq {b: 1}", "expected a sequence"),
    "no text": ("a: !!str [1]", "expected a scalar"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
    "endless": ("a: '" + "x" * 2_000_000, "has 2,000,004 characters, expected at most 1,048,576"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_document_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        read_yaml(text, "a.yaml")
    assert str(caught.value).startswith("a.yaml")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: \xff", "not UTF-8 at byte 3"),
        ("a: 1".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"", "holds nothing, expected keys and values"),
        (b"- a", "holds list, expected keys and values"),
        (b"text", "holds str, expected keys and values"),
        (b"x" * (4 << 20) + b"y", "it has 4,194,305 bytes"),
    ],
)
def test_file_of_another_form_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert problem in str(caught.value)


def test_aliases_and_numbers_of_ordinary_documents_are_read() -> None:
    text = "a: &x {b: [1, 2]}\nc: *x\nd: [1e-4, .5, -1_000, +3, 0, .inf, -.inf, ~, null, true, 012, 12:30, no]\n"
    expected = [1e-4, 0.5, -1000, 3, 0, math.inf, -math.inf, None, None, True, "012", "12:30", "no"]
    assert read_yaml(text, "") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": expected}
    assert math.isnan(read_yaml(".nan", ""))
    assert read_yaml("\ufeffa: !!str 1", "") == {"a": "1"}


def test_what_is_written_is_read_back() -> None:
    values = {"a": [1, 1e-7, None, True, "true", "1e5", "é", "a: b"], "b": {"c": 18446744073709551615}}
    assert read_yaml(write_yaml(values), "") == values
