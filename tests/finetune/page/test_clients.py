"""Bad clients of the page: slow ones, crowds, and those that hang up. No one else waits for them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from tests.finetune.page.direct import NO_TIMER, DirectPage
from tests.finetune.page.stage import ACCESS, ask, served
from tests.warm import HANGS_AFTER_S
from trichord.finetune.page.app import LONGEST_QUEUE, make_app
from trichord.finetune.page.connections import ConnectionLimits, client_of
from trichord.finetune.page.inference import VideoInference
from trichord.finetune.page.requests import Client, WorkQueue
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.record import RawSample

HEAD = b"GET / HTTP/1.1\r\nHost: page\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: page\r\nContent-Length: 1000000\r\n\r\n"
LONG = 16 << 20
TURN_BYTES = NO_TIMER.bytes_per_turn


async def count(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def long_answer(request: Request) -> Response:
    return Response(bytes(LONG))


async def hung_up(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


COUNTING = Starlette(
    routes=[Route("/", count, methods=["GET", "POST"]), Route("/long", long_answer)],
    exception_handlers={ClientDisconnect: hung_up},
)


@pytest.fixture
def page() -> Iterator[DirectPage]:
    with DirectPage(COUNTING) as page:
        yield page


def errors_of(data: bytes) -> tuple[int, str]:
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_half_sent_requests_are_closed_with_an_answer_and_unused_connections_without(page: DirectPage) -> None:
    for part, status in ((b"", None), (HEAD[:20], 408), (UPLOAD + b"abc", 408)):
        client = page.connect()
        client.send(part)
        assert not client.is_ended and not client.data
        client.end_turn()
        assert client.is_ended
        assert [each.status for each in client.responses()] == ([] if status is None else [status])


def test_half_of_a_second_request_is_closed_too(page: DirectPage) -> None:
    client = page.connect()
    client.send(HEAD)
    client.send(HEAD[:20])
    client.end_turn()
    assert client.is_ended
    assert [each.status for each in client.responses()] == [200, 408]


def test_uploads_may_take_many_turns_but_not_trickle(page: DirectPage) -> None:
    client = page.connect()
    client.send(UPLOAD)
    for _ in range(10):
        client.send(bytes(TURN_BYTES))
        client.end_turn()
        assert not client.is_ended
    client.send(bytes(TURN_BYTES - 1))
    client.end_turn()
    assert client.is_ended
    assert [each.status for each in client.responses()] == [408]


def test_answers_may_be_read_in_many_turns_but_are_given_up_if_they_are_not_read(page: DirectPage) -> None:
    client = page.connect()
    client.ours.send(b"GET /long HTTP/1.1\r\nHost: page\r\n\r\n")
    unread = client.connection.transport.get_write_buffer_size
    page.until(lambda: unread() > LONG // 2)
    for _ in range(3):
        before = unread()
        client.ours.recv(LONG // 16)
        page.until(lambda before=before: before - unread() >= TURN_BYTES)
        client.connection.end_turn()
        assert not client.connection.transport.is_closing()
    client.connection.end_turn()
    assert client.connection.transport.is_closing()


def test_an_upload_that_is_refused_early_still_gets_its_answer() -> None:
    with DirectPage(make_app(cast(VideoInference, Slow()), [], ACCESS)) as page:
        client = page.connect()
        head = b"POST /api/look HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 4000000\r\n\r\n"
        client.send(head + bytes(4_000_000))
        assert [each.status for each in client.responses()] == [413]


def test_many_half_sent_requests_lock_nobody_out() -> None:
    """110 of them gave everyone 503, and none was ever closed."""
    with served(COUNTING, NO_TIMER) as address:
        half = [send_from("127.0.0.1", address, HEAD[:20]) for _ in range(110)]
        assert ask(address).status == 200
        for each in half:
            each.close()


def test_connections_of_one_address_are_limited_and_those_of_others_are_not() -> None:
    limits = ConnectionLimits(per_address=3, total=5, turn_s=NO_TIMER.turn_s)
    with served(COUNTING, limits) as address:
        own = [begin_upload("127.0.0.1", address) for _ in range(3)]
        status, error = errors_of(receive_all(send_from("127.0.0.1", address, HEAD)))
        assert (status, error) == (429, "too many connections are open from your address")
        others = [begin_upload(f"127.0.0.{number}", address) for number in (2, 3)]
        status, error = errors_of(receive_all(send_from("127.0.0.4", address, HEAD)))
        assert (status, error) == (503, "too many connections are open")
        own[0].close()
        assert answers(lambda: receive_all(send_from("127.0.0.4", address, close(HEAD))).startswith(b"HTTP/1.1 200"))
        for each in (*own, *others):
            each.close()


def test_a_burst_of_connections_stays_within_the_limit() -> None:
    """A connection that has been closed for another one, but is not lost yet, makes room only once."""
    with DirectPage(COUNTING, ConnectionLimits(per_address=2, turn_s=NO_TIMER.turn_s)) as page:
        pairs = [socket.socketpair() for _ in range(10)]

        async def connect_at_once() -> None:
            accept = page.loop.connect_accepted_socket
            await asyncio.gather(*(accept(page.protocol, theirs) for _, theirs in pairs))

        page.loop.run_until_complete(connect_at_once())
        page.until(lambda: len(page.server.server_state.connections) == 2)
        for ours, _ in pairs[:-2]:
            assert ours.recv(1) == b""
        for ours, _ in pairs:
            ours.close()


def test_an_ipv6_client_is_its_network() -> None:
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2:ffff::") != client_of("2001:db8:1:3::4")
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of("fe80::1%eth0") == client_of("fe80::2%eth0")


class Slow:
    """Inference that waits until it may go on."""

    def __init__(self) -> None:
        self.limits, self.nearest = DecodeLimits(max_bytes=1000), None
        self.asked: list[bytes] = []
        self.go_on = threading.Event()

    def predict(self, raw: RawSample, is_gone: Callable[[], bool]) -> dict[str, Any]:
        self.asked.append(raw.video())
        assert self.go_on.wait(HANGS_AFTER_S)
        return {"gone": is_gone()}


def test_work_of_clients_that_hang_up_is_not_done() -> None:
    """The work of 16 clients that had sent a film and hung up was done, while others waited."""
    slow = Slow()
    with served(make_app(cast(VideoInference, slow), [], ACCESS)) as address:
        gone = []
        for number in range(LONGEST_QUEUE):
            head = f"POST /api/look?ticket={number} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\n"
            gone.append(send_from("127.0.0.1", address, head.encode() + b"film"))
        place = lambda number: ask(f"{address}/api/line?ticket={number}").content["ahead"]  # noqa: E731
        assert all(answers(lambda number=number: place(number) is not None) for number in range(LONGEST_QUEUE))
        assert ask(f"{address}/api/look", b"good").status == 503
        for each in gone:
            each.close()
        assert all(answers(lambda number=number: place(number) is None) for number in range(LONGEST_QUEUE))
        slow.go_on.set()
        assert ask(f"{address}/api/look", b"good").content == {"gone": False}
    assert slow.asked == [b"film", b"good"]


def test_work_that_has_begun_can_ask_whether_its_client_is_gone() -> None:
    async def hang_up_during_work() -> bool:
        hangs_up, began, go_on = asyncio.Event(), threading.Event(), threading.Event()

        async def receive() -> Message:
            await hangs_up.wait()
            return {"type": "http.disconnect"}

        client, line = Client(receive), WorkQueue("test", longest=2)
        seen: list[bool] = []

        def work() -> None:
            began.set()
            assert go_on.wait(HANGS_AFTER_S)
            seen.append(client.is_gone())

        doing = asyncio.create_task(line.do(work, client))
        await asyncio.to_thread(began.wait, HANGS_AFTER_S)
        hangs_up.set()
        with pytest.raises(ClientDisconnect):
            await doing
        go_on.set()
        line.close()
        line._thread.shutdown()
        return seen == [True]

    assert asyncio.run(hang_up_during_work())


def send_from(source: str, address: str, data: bytes) -> socket.socket:
    port = int(address.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), HANGS_AFTER_S, (source, 0))
    connection.sendall(data)
    return connection


def begin_upload(source: str, address: str) -> socket.socket:
    """Send the head of an upload, and wait until the page expects the body."""
    connection = send_from(source, address, UPLOAD.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100")
    return connection


def receive_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def close(head: bytes) -> bytes:
    return head.replace(b"Host", b"Connection: close\r\nHost")


def answers(holds: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + HANGS_AFTER_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.002)
    return True
