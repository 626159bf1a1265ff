"""Who may use the page, and what a request may contain: errors are errors of the request, never of the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock as Mock

import pytest

from tests.finetune.page.direct import DirectPage, Received
from trichord.core.errors import UserError
from trichord.finetune.page.access import LOOPBACK, SECURITY_HEADERS, Access, read_token
from trichord.finetune.page.app import make_app
from trichord.finetune.page.inference import VideoInference
from trichord.finetune.page.nearest import SearchRequest
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.record import RawSample

TOKEN = "0123456789abcdef-token"
DIGITS = "9" * 5000  # more than Python reads as a number


class FewWords:
    """An index that answers every search with nothing."""

    index, embedder = Mock(catalogue=Mock(dim=4), __len__=lambda _: 0), None

    def answer(self, question: SearchRequest, vector: Any) -> list[Any]:
        return []

    def clip(self, segment: int, row: int) -> RawSample:
        if (segment, row) == (0, 1):
            return RawSample("sound", "00000.tar", {"wav": b"RIFF"})
        raise LookupError("no such row")


class Broken:
    """Inference that fails for any video, of a run with a class name that is not UTF-8."""

    limits, nearest = DecodeLimits(max_bytes=1000), FewWords()
    samples = (RawSample("a", "00000.tar", {"mp4": b"0123456789"}),)

    def about(self) -> list[Any]:
        return [{"classes": ["half \ud800 of a pair"]}]

    def predict(self, raw: RawSample, is_gone: Any) -> dict[str, Any]:
        raise RuntimeError("a mistake of the page")


def page_of(token: str | None = None) -> DirectPage:
    inference = cast(VideoInference, Broken())
    return DirectPage(make_app(inference, list(Broken.samples), Access(LOOPBACK, token)))


@pytest.fixture(scope="module")
def page() -> Iterator[DirectPage]:
    with page_of() as page:
        yield page


@pytest.fixture(scope="module")
def closed_page() -> Iterator[DirectPage]:
    with page_of(TOKEN) as page:
        yield page


def ask(
    page: DirectPage, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Received:
    sent = {"Host": "127.0.0.1:8000", "Content-Length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
    client = page.connect()
    client.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
    client.hang_up()
    (found,) = client.responses()
    return found


REFUSED: dict[str, tuple[str, str, dict[str, str], bytes, int]] = {
    "sample of 5,000 digits": ("POST", f"/api/look?sample={DIGITS}", {}, b"", 404),
    "clip of 5,000 digits": ("GET", f"/api/samples/{DIGITS}", {}, b"", 404),
    "hit of 5,000 digits": ("GET", f"/api/hits/{DIGITS}/{DIGITS}", {}, b"", 404),
    "hit without video": ("GET", "/api/hits/0/1", {}, b"", 404),
    "digits of another script": ("POST", "/api/look?sample=%D9%A0", {}, b"", 404),
    "origin with half a bracket": ("POST", "/api/look?sample=0", {"Origin": "http://[::1"}, b"", 403),
    "origin of another site": ("POST", "/api/look?sample=0", {"Origin": "http://evil.example"}, b"", 403),
    "origin of a file": ("POST", "/api/look?sample=0", {"Origin": "null"}, b"", 403),
    "two origins": ("POST", "/api/look?sample=0", {"Origin": "http://127.0.0.1:8000", "origin": "http://b"}, b"", 403),
    "another host": ("GET", "/", {"Host": "evil.example"}, b"", 400),
    "host with half a bracket": ("GET", "/", {"Host": "[::1"}, b"", 400),
    "host with a name before": ("GET", "/", {"Host": "127.0.0.1@evil.example"}, b"", 400),
    "no host": ("GET", "/", {"Host": ""}, b"", 400),
    "letters as length": ("POST", "/api/look", {"Content-Length": "ten"}, b"", 400),
    "length below 0": ("POST", "/api/look", {"Content-Length": "-1"}, b"", 400),
    "length of 20 digits": ("POST", "/api/look", {"Content-Length": DIGITS[:20]}, b"", 413),
    "no chunk": ("POST", "/api/look", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"zz\r\n", 400),
    "chunk that lies": ("POST", "/api/look", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"1\r\nabc", 400),
    "unknown encoding": ("POST", "/api/look", {"Transfer-Encoding": "gzip"}, b"", 400),
    "header name": ("GET", "/", {"a b": "c"}, b"", 400),
    "headers of 1 MB": ("GET", "/", {"a": "b" * 1_000_000}, b"", 400),
    "path with a slash": ("GET", "/api/about/", {}, b"", 404),
    "method": ("BREW", "/", {}, b"", 405),
    "connect": ("CONNECT", "evil.example:443", {}, b"", 404),
    "whole address": ("GET", "http://evil.example/", {}, b"", 404),
    "mistake of the page": ("POST", "/api/look?sample=0", {}, b"", 500),
    "deep JSON": ("POST", "/api/search", {}, b"[" * 100_000, 400),
    "surrogate": ("POST", "/api/search", {}, b'{"like": "\\ud800"}', 400),
    "name with a surrogate": ("POST", "/api/search", {}, b'{"\\ud800": 1}', 400),
    "not UTF-8": ("POST", "/api/search", {}, b'{"like": "\xff"}', 400),
    "number of 5,000 digits": ("POST", "/api/search", {}, b'{"like": "a", "k": ' + DIGITS.encode() + b"}", 400),
    "not a number": ("POST", "/api/search", {}, b'{"like": "a", "k": NaN}', 400),
    "other type": ("POST", "/api/search", {}, b'{"vector": {"a": [null]}}', 400),
    "300,000 mistakes": ("POST", "/api/search", {}, b'{"vector": [' + b'"",' * 300_000 + b"0]}", 400),
    "70,000 unknown names": (
        "POST",
        "/api/search",
        {},
        json.dumps(dict.fromkeys(map(str, range(70_000)))).encode(),
        400,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_requests_and_have_the_headers_of_good_responses(page: DirectPage, name: str) -> None:
    method, path, headers, body, status = REFUSED[name]
    found = ask(page, method, path, headers, body)
    assert found.status == status
    assert SECURITY_HEADERS.items() <= {each: found.headers.get(each.lower()) for each in SECURITY_HEADERS}.items()
    content = json.loads(found.body)
    assert content["error"] and content["hint"]


@pytest.mark.parametrize(
    "line", [b"GET  / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n", b"GET /\r\n\r\n"]
)
def test_what_is_not_http_is_answered_with_the_same_headers(page: DirectPage, line: bytes) -> None:
    client = page.connect()
    client.send(line)
    client.end_turn()
    (found,) = client.responses()
    assert found.status == 400
    assert SECURITY_HEADERS.items() <= {each: found.headers.get(each.lower()) for each in SECURITY_HEADERS}.items()


def test_good_responses_have_the_headers_and_methods_are_named(page: DirectPage) -> None:
    for path in ("/", "/page.js", "/page.css", "/api/about?a=" + "b" * 5000):
        found = ask(page, "GET", path)
        assert found.status == 200
        assert SECURITY_HEADERS.items() <= {each: found.headers.get(each.lower()) for each in SECURITY_HEADERS}.items()
    assert "POST" in ask(page, "GET", "/api/look").headers["allow"]
    assert ask(page, "POST", "/api/search", {"Origin": "http://127.0.0.1:8000"}, b'{"like": "a"}').status == 200


def test_a_class_name_with_half_a_surrogate_pair_is_shown(page: DirectPage) -> None:
    (run,) = json.loads(ask(page, "GET", "/api/about").body)["runs"]
    assert run["classes"] == ["half ? of a pair"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=2-5", 206), ("bytes=9-5", 416), ("bytes=99-", 416), (f"bytes={DIGITS}-", 200), ("bytes=a-b", 200)],
)
def test_ranges_are_served_refused_or_ignored(page: DirectPage, asked: str, status: int) -> None:
    assert ask(page, "GET", "/api/samples/0", {"Range": asked}).status == status


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/about", "/api/samples/0", "/nothing"])
def test_without_the_token_nothing_is_answered(closed_page: DirectPage, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xff"},
        {"Cookie": f"trichord={TOKEN}"},
    ):
        found = ask(closed_page, "GET", path, headers)
        assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
        assert "set-cookie" not in found.headers
    assert ask(closed_page, "GET", f"{path}?token=%ff").status == 401
    assert ask(closed_page, "POST", "/api/look", {}, b"a" * 500).status == 401


def test_programs_send_the_token_and_browsers_get_a_cookie_for_it(closed_page: DirectPage) -> None:
    assert ask(closed_page, "GET", "/api/about", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    found = ask(closed_page, "GET", f"/?token={TOKEN}")
    cookie, *attributes = found.headers["set-cookie"].split("; ")
    assert found.status == 200 and set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert TOKEN not in cookie
    for path in ("/", "/page.js", "/api/about"):
        answer = ask(closed_page, "GET", path, {"Cookie": f"other=1; {cookie}"})
        assert answer.status == 200 and "set-cookie" not in answer.headers
    name, _, value = cookie.partition("=")
    assert ask(closed_page, "GET", "/", {"Authorization": f"Bearer {value}"}).status == 401
    assert ask(closed_page, "GET", "/", {"Cookie": f"{name}={TOKEN}"}).status == 401
    other_site = {"Cookie": cookie, "Origin": "http://evil.example"}
    assert ask(closed_page, "POST", "/api/search", other_site, b'{"like": "a"}').status == 403


def test_a_token_is_one_line_that_nobody_guesses(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    for content in (b"", b"short\n", b"two lines of text\nand more of it", b"\xff" * 20, b"a" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match="expected one line of 16 to 200"):
            read_token(path)
    with pytest.raises(UserError, match="openssl rand -hex 16"):
        read_token(tmp_path / "nothing")
    with pytest.raises(UserError, match="directory"):
        read_token(tmp_path)
