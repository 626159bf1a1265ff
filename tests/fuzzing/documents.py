"""Mutants of documents and archives that keep their syntax: one value of another kind, one field of a tar header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from trichord.core.yaml_subset import read_yaml, write_yaml

_BLOCK = 512
_PLACE = "a value to replace"
# What may stand in the place of any value of JSON, and below of YAML.
_JSON = (
    *("null", "true", "-1", "0", "7", "0.5", "1e300", "1e999", "-1e308", "NaN", "Infinity", "-Infinity"),
    *(str(1 << 31), str(1 << 63), "9" * 40, "9" * 400, "9" * 5000),
    *('""', '"text"', '"1"', '"\\ud800"', '"\\u0000"', '"../../../etc/passwd"', '"/dev/zero"', '"a\\nb\\u001b[2J"'),
    *('"' + "long " * 20_000 + '"', "[]", "{}", '[1, "a", null]', '{"a": {"b": []}}', '{"kind": [1]}', "[[[]]]"),
    *("[" * 60 + "]" * 60, "[" * 900 + "]" * 900, '{"a":' * 90_000 + "1" + "}" * 90_000),
)
_LAUGHS = "[&a0 [x, x, x, x, x, x, x, x, x]" + "".join(
    f", &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)
)
_YAML = (
    *_JSON,
    *("~", "yes", "12:30", "0x1f", "1_000", ".inf", "-.inf", ".nan", "!!int x", "!!float x", "!!bool x", "!!null x"),
    *("!!timestamp x", "!!binary x", "!!set {a, b}", "!!omap [a: 1]", "!!str [1]", "!!map [1]", "!!seq {a: 1}"),
    *("!!python/name:os.system", "!!python/object/apply:os.system [ls]", "!x y", "*none", "&me [*me]", "&me {a: *me}"),
    *(_LAUGHS + "]", '"\\U0011FFFF"', "{a: 1, a: 2}", "{[1]: 2}", "{? " + "k" * 3000 + " : 1}", "[" * 5000, "\t- x"),
    *("{0: 1, 5000: 2}", "{'" + "1" * 5000 + "': 1}", "a: b: c", "---", "%TAG x", "|", "pipe:touch ran {name}"),
)


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Return JSON, or lines of JSON, with one value of another kind, one key renamed, or one value missing or twice."""
    lines = data.decode().splitlines() if data.count(b"\n") > 1 and data.startswith(b"{") else [data.decode()]
    try:
        chosen = int(rng.integers(len(lines)))
        lines[chosen] = _replaced(json.loads(lines[chosen]), rng, json.dumps, _JSON)
    except ValueError:
        return _replaced(json.loads(data), rng, json.dumps, _JSON).encode(errors="surrogatepass")
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


def mutate_yaml(data: bytes, rng: np.random.Generator) -> bytes:
    """Return YAML with one value of another kind, one key renamed, or one value missing or twice."""
    return _replaced(read_yaml(data.decode(), "a good file"), rng, write_yaml, _YAML).encode(errors="surrogatepass")


def mutate_table(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a safetensors file with one value of its header of another kind, or one number of its columns."""
    size = int.from_bytes(data[:8], "little")
    if rng.integers(3) == 0:
        found, at = bytearray(data), 8 + size + 8 * int(rng.integers((len(data) - size) // 8 - 1))
        number = (0, 1, 2, 100, -1, 1 << 62)[int(rng.integers(6))]
        found[at : at + 8] = number.to_bytes(8, "little", signed=True)
        return bytes(found)
    header = mutate_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate_words(data: bytes, rng: np.random.Generator) -> bytes:
    """Return words NAME=VALUE, a line each, with one value of another kind or one name that leads elsewhere."""
    words = data.decode().split("\n")
    chosen = int(rng.integers(len(words)))
    name = words[chosen].partition("=")[0]
    names = (name, name, name, f"{name}.x", f"{name}.0", "a." * 5000 + "a", "data.sources." + "9" * 5000, "kind", "")
    value = _YAML[int(rng.integers(len(_YAML)))]
    words[chosen] = f"{names[int(rng.integers(len(names)))]}={value}"
    return "\n".join(words).encode(errors="surrogatepass")


def _replaced(document: Any, rng: np.random.Generator, write: Any, values: tuple[str, ...]) -> str:
    places = list(_places(document))
    if not places or rng.integers(20) == 0:
        return values[int(rng.integers(len(values)))]
    inside, key = places[int(rng.integers(len(places)))]
    value = values[int(rng.integers(len(values)))]
    action = int(rng.integers(8))
    if action == 0:
        del inside[key]
    elif action == 1 and isinstance(inside, dict):
        inside[f"{key}_"] = inside.pop(key)
    elif action == 1:
        inside.append(inside[key])
    else:
        inside[key] = _PLACE
    text: str = write(document)
    return text.replace(f'"{_PLACE}"', value).replace(_PLACE, value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


# First byte and length of the fields of a header, and what may stand there.
_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "kind": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "prefix": (345, 155),
    "sparse": (482, 30),
}
_VALUES: dict[str, tuple[bytes, ...]] = {
    "name": (
        b"../../x.txt",
        b"/etc/x.txt",
        b"a\x1b[2J.txt",
        b"\xff\xfe.txt",
        b"",
        b"n" * 100,
        b"0001.txt",
        b"x/",
        b"..",
    ),
    "size": (b"-1", b"77777777777", b"0", b"99", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + b"\0" * 11, b" 12 "),
    "kind": tuple(bytes([kind]) for kind in b"0123456 7SxXgLKDMNV\0\xff"),
}
_ANY = (b"", b"\xff" * 8, b"7777777", b"-1", b"GNUtar")


def mutate_tar(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a tar file with one field of one header changed, its checksum corrected, or with a member added."""
    found, headers = bytearray(data), list(_headers(data))
    at = headers[int(rng.integers(len(headers)))]
    if rng.integers(3) == 0:
        found[at:at] = _record(rng)
        return bytes(found)
    name = list(_FIELDS)[int(rng.integers(len(_FIELDS)))]
    first, length = _FIELDS[name]
    choices = _VALUES.get(name, _ANY)
    value = choices[int(rng.integers(len(choices)))][:length]
    found[at + first : at + first + length] = value.ljust(length, b"\0")
    _correct(found, at)
    return bytes(found)


def _record(rng: np.random.Generator) -> bytes:
    """Return an extended header with hostile content."""
    contents = (
        *(
            b"18 size=999999999\n",
            b"10 size=-1\n",
            b"11 size=\xd9\xa1\n",
            b"30 size=" + b"9" * 21 + b"\n",
            b"12 path=../\n",
        ),
        *(
            b"99999999999999999999 path=x\n",
            b"0 path=x\n",
            b"-5 path=x\n",
            b"path=x\n",
            b"14 path=\xff\xfe.t\n",
            b"9 path=\n",
        ),
        *(
            b"22 GNU.sparse.major=1\n",
            b"25 GNU.sparse.size=99999\n",
            b"20 hdrcharset=BINARY\n",
            b"6 a=\n",
            b"\0" * 9,
            b"",
        ),
        *(b"5012 path=" + b"n" * 5001 + b"\n", b"n" * 5000, b"12 path=a\0b\n", b"13 linkpath=x\n"),
    )
    content = contents[int(rng.integers(len(contents)))]
    header = bytearray(_BLOCK)
    header[0:4] = b"more"
    header[124:136] = b"%011o\0" % len(content)
    header[156:157] = (b"x", b"g", b"X", b"L", b"K", b"S")[int(rng.integers(6))]
    header[257:265] = b"ustar\x0000"
    _correct(header, 0)
    return bytes(header) + content.ljust(-(-len(content) // _BLOCK) * _BLOCK, b"\0")


def _correct(data: bytearray, at: int) -> None:
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + _BLOCK])


def _headers(data: bytes) -> Iterator[int]:
    at = 0
    while any(data[at : at + _BLOCK]):
        yield at
        at += _BLOCK + -(-int(data[at + 124 : at + 135], 8) // _BLOCK) * _BLOCK
