"""Forged requests to the page: whatever they are, they are answered or refused with an error of the request.

The page runs in this process, and clients are connected to it without a port. Requests are first changed by what they
consist of, so that many get beyond the parser, then some of them byte by byte. A short slice of them is a test beside
the page's runs: tests/finetune/page/test_api.py.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.finetune.page.direct import DirectClient, DirectPage
from tests.finetune.page.stage import app_of, clips_of, make_runs
from tests.fuzzing.mutation import mutate
from tests.fuzzing.subject import Subject
from trichord.finetune.page.access import SECURITY_HEADERS, Access

_TOKEN = "a-token-of-the-fuzzing"
_KNOWS = ("Authorization", f"Bearer {_TOKEN}")
_NUMBERS = (
    "0",
    "1",
    "-1",
    "00",
    "1e9",
    "99999999999999999999",
    "9" * 5000,
    "\N{ARABIC-INDIC DIGIT ONE}",
    "0x1",
    "",
    " ",
)
_TEXTS = (
    "",
    "\0",
    "\x7f",
    "a" * 5000,
    "\xff",
    "%00",
    "%ff",
    "%",
    "..%2f..",
    "../..",
    "'\"<>",
    "{}",
    "*",
    "é",
    ";",
    "&&",
)
_VALUES = (
    *(
        "null",
        "true",
        "NaN",
        "Infinity",
        "-1",
        "0",
        "1e400",
        "1e-400",
        "9" * 5000,
        '""',
        '"\\ud800"',
        '"\\u0000"',
        "[]",
    ),
    *(
        "{}",
        "[" * 300,
        '{"a":' * 300,
        "[1e39]",
        "[NaN]",
        '["a"]',
        '"' + "a" * 20000 + '"',
        '"\udcff"',
        "'a'",
        "",
        "1,2",
    ),
)
_NAMES = ("text", "vector", "like", "k", "where", "label", "key", "", "\\ud800", "k" * 300, "__proto__")
_HEADERS = (
    *(
        ("Host", each)
        for each in ("", "evil.example", "[::1", "127.0.0.1@b", "127.0.0.1:99999999", "localhost", "\xff")
    ),
    *(("Origin", each) for each in ("null", "http://[::1", "http://127.0.0.1", "http://b", "", "://", "\xff")),
    *(
        ("Range", f"bytes={each}")
        for each in ("0-", "-1", "5-2", "99999-", f"{'9' * 5000}-", "a-b", "0-0,2-3", "", "0-9")
    ),
    *(
        ("Content-Length", each)
        for each in ("0", "-1", "1", "5000", "99999999999999999999", "9" * 5000, "a", "1,1", "+1")
    ),
    *(("Transfer-Encoding", each) for each in ("chunked", "gzip", "chunked, chunked", "identity", "")),
    *(("Authorization", each) for each in ("", "Bearer", "Bearer \xff", "Basic YTpi", f"bearer {_TOKEN}", "\0")),
    *(("Cookie", each) for each in ("=", ";;;", 'a="\\777"', "trichord-=x", "\xff" * 99, "a=b; " * 500)),
    *(("Connection", each) for each in ("close", "upgrade", "keep-alive, close", "")),
    *(("Expect", each) for each in ("100-continue", "200-ok")),
    *(("Upgrade", "websocket"), ("Content-Type", "multipart/form-data; boundary=\xff"), ("X-Forwarded-For", "[::1")),
    *(
        ("Accept-Encoding", "\0"),
        ("", "a"),
        ("a b", "c"),
        ("a", "b" * 20000),
        ("a", "b\r\n c"),
        ("Content-Encoding", "gzip"),
    ),
)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "", "\xff", "G" * 9999)
_VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9", "", "http/1.1")
_TARGETS = (
    *("/", "/page.js", "/api/about", "/api/about/", "/api/line", "/api/look", "/api/search", "/api/samples/0", "*", ""),
    *(
        "/api/hits/0/0",
        "//",
        "/..%2f..",
        "http://127.0.0.1/",
        "http://[::1/",
        "/\xff",
        "/%",
        "/?token=%ff",
        "/api/samples/",
    ),
)


@dataclass(frozen=True)
class Forged:
    """A request; without a length of its own it gets the right one."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = (("Host", "127.0.0.1"), _KNOWS)
    body: bytes = b""
    version: str = "HTTP/1.1"
    is_chunked: bool = False

    def as_bytes(self) -> bytes:
        """Return the request as it is sent."""
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(self.body), self.body) if self.is_chunked else self.body
        names = {name.lower() for name, _ in self.headers}
        headers = self.headers
        if self.is_chunked:
            headers = (*headers, ("Transfer-Encoding", "chunked"))
        elif self.body and "content-length" not in names:
            headers = (*headers, ("Content-Length", str(len(body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"{self.method} {self.target} {self.version}\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


def ordinary(clip: bytes, vector: Sequence[float]) -> tuple[Forged, ...]:
    """Return a request of each kind."""
    questions: tuple[dict[str, Any], ...] = (
        {"text": "a red star", "k": 3},
        {"like": "clip002", "k": 2, "where": {"shard": "00000.tar"}},
        {"vector": list(vector), "where": {"label": "a", "key": "b"}},
    )
    gets = (
        "/",
        "/page.css",
        "/api/about",
        "/api/line?ticket=a",
        "/api/samples/1",
        "/api/hits/0/3",
        f"/?token={_TOKEN}",
    )
    return (
        *(Forged("GET", target) for target in gets),
        *(Forged("POST", "/api/search", body=json.dumps(question).encode()) for question in questions),
        Forged("POST", "/api/look?sample=1&ticket=a"),
        Forged("POST", "/api/look?ticket=b", body=clip),
        Forged("POST", "/api/look", body=clip, is_chunked=True),
    )


def _one(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _method(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, method=_one(_METHODS, rng))


def _version(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, version=_one(_VERSIONS, rng))


def _target(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, target=_one(_TARGETS, rng))


def _number(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, target=re.sub(r"\d+", lambda _: _one(_NUMBERS, rng), request.target))


def _query(request: Forged, rng: np.random.Generator) -> Forged:
    name, value = _one(("sample", "ticket", "token", "", "a"), rng), _one((*_NUMBERS, *_TEXTS), rng)
    return replace(request, target=f"{request.target}{'&' if '?' in request.target else '?'}{name}={value}")


def _header(request: Forged, rng: np.random.Generator) -> Forged:
    """Add a header, or replace or remove the one of its name."""
    name, value = _one(_HEADERS, rng)
    others = tuple(each for each in request.headers if each[0] != name)
    new = _one(((*request.headers, (name, value)), (*others, (name, value)), others), rng)
    return replace(request, headers=new)


def _json(request: Forged, rng: np.random.Generator) -> Forged:
    """Replace a value or a name of a question."""
    if not request.body.startswith(b"{"):
        return request
    text = request.body.decode("utf-8", "surrogateescape")
    places = list(re.finditer(r'(?<=: )("[^"]*"|\[[^\]]*\]|[^,}\]]+)|"\w+"(?=:)|-?\d\.\d+', text))
    if not places:
        return request
    place = _one(places, rng)
    new = f'"{_one(_NAMES, rng)}"' if text[place.end() :].startswith(":") else _one(_VALUES, rng)
    text = text[: place.start()] + new + text[place.end() :]
    return replace(request, body=text.encode("utf-8", "surrogateescape"))


def _body(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, body=mutate(request.body, rng))


def _chunks(request: Forged, rng: np.random.Generator) -> Forged:
    return replace(request, is_chunked=not request.is_chunked)


_EDITS: tuple[Callable[[Forged, np.random.Generator], Forged], ...] = (
    *(_method, _version, _target, _chunks),
    *(_number, _number, _query, _query, _header, _header, _header, _json, _json, _json, _body),
)
_MOST_EDITS = 3
_MOST_BYTE_EDITS_AT = 4  # one in as many is also changed byte by byte


class Requests(Subject):
    """Requests to a page with small models, an index and a token."""

    allowed_s = 4.0

    def prepare(self) -> None:
        """Train the runs, and start the page."""
        top = Path("page").absolute()
        with redirect_stdout(io.StringIO()):
            make_runs(top)
        self.start(top)

    def start(self, top: Path) -> None:
        """Start the page of runs that are there."""
        self.page = DirectPage(app_of(top, Access(["127.0.0.1"], _TOKEN)))
        self.errors: list[str] = []
        self.page.loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        (clip,) = clips_of(top / "clips", 1).values()
        self.ordinary = ordinary(clip, [1.0] + [0.0] * 15)

    def run(self, seed: int, number: int) -> str:
        rng = np.random.default_rng([seed, number])
        request = self.ordinary[number % len(self.ordinary)]
        for _ in range(int(rng.integers(1, _MOST_EDITS + 1))):
            request = _one(_EDITS, rng)(request, rng)
        data = request.as_bytes()
        if rng.integers(_MOST_BYTE_EDITS_AT) == 0:
            data = mutate(data, rng)
        with _noting(self.errors):
            client = self.page.connect()
            try:
                outcome = self._talk(client, data, rng)
            finally:
                client.hang_up()
                self.page.until(lambda: not self.page.server.server_state.tasks)
        errors, self.errors[:] = list(self.errors), []
        assert not errors, errors
        return outcome

    def _talk(self, client: DirectClient, data: bytes, rng: np.random.Generator) -> str:
        """Send a request in pieces, in some cases only some of them; return the status of the answer."""
        cuts = sorted(int(rng.integers(len(data) + 1)) for _ in range(int(rng.integers(3))))
        for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True):
            client.send(data[first:last])
            if rng.integers(20) == 0:
                return "hung up"
        client.end_turn()
        client.end_turn()  # enough was sent for another one
        responses = client.responses()
        assert responses or not data, "no answer"
        for each in responses:
            assert each.status < 500 or each.status == 503, each
            found = {name: each.headers.get(name.lower()) for name in SECURITY_HEADERS}
            assert found == SECURITY_HEADERS, each
            assert each.status < 400 or not each.body or {"error", "hint"} == json.loads(each.body).keys()
        return str(responses[0].status) if responses else "nothing"


@contextmanager
def _noting(errors: list[str]) -> Iterator[None]:
    """Note what is logged as an error."""
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(handler.format(record))  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
