"""A page whose clients are in the same process and thread: they are connected by pairs of sockets, without a port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from starlette.types import ASGIApp

from tests.warm import HANGS_AFTER_S
from trichord.finetune.page.connections import ConnectionLimits, PageConnection
from trichord.finetune.page.serving import make_server

NO_TIMER = ConnectionLimits(turn_s=10 * HANGS_AFTER_S)  # turns end when a test says so


class Received(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes


class DirectPage:
    """A page without a port."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits = NO_TIMER) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = make_server(app, limits)
        self.server.config.load()
        self.server.server_state.default_headers = self.server.config.encoded_headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let all clients hang up."""
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()
        state = self.server.server_state
        self.until(lambda: not state.connections and not state.tasks)
        self.loop.close()

    def connect(self) -> DirectClient:
        """Return a new client."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        _, connection = self.loop.run_until_complete(self.loop.connect_accepted_socket(self.protocol, theirs))
        assert isinstance(connection, PageConnection)
        return DirectClient(self, ours, connection)

    def protocol(self) -> asyncio.Protocol:
        """Return a new connection of the page."""
        protocol: asyncio.Protocol = self.server.config.http_protocol_class(
            config=self.server.config, server_state=self.server.server_state, app_state={}, _loop=self.loop
        )
        return protocol

    def until(self, holds: Callable[[], object]) -> None:
        """Let the page work until something holds."""
        end_s = time.monotonic() + HANGS_AFTER_S
        while not holds():
            assert time.monotonic() < end_s, "the page hangs"
            self.loop.run_until_complete(asyncio.sleep(0.0005))


class DirectClient:
    """One end of a connection, and the page's connection at the other."""

    def __init__(self, page: DirectPage, ours: socket.socket, connection: PageConnection) -> None:
        self.page, self.connection, self.ours = page, connection, ours
        self.sent, self.data, self.is_ended = 0, b"", False

    def send(self, data: bytes) -> None:
        """Send, as far as the page reads it, until the page has done what it can with it."""
        left = memoryview(data)

        def is_done() -> bool:
            nonlocal left
            left = left[self._send(left) :]
            self.receive()
            is_read = not left and self.connection.received == self.sent
            return self.is_ended or (is_read and self.connection.is_turn_of_client)

        self.page.until(is_done)

    def _send(self, data: memoryview) -> int:
        try:
            size = self.ours.send(data) if data else 0
        except BlockingIOError:
            return 0
        except OSError:  # the page has closed the connection
            return len(data)
        self.sent += size
        return size

    def receive(self) -> None:
        """Receive what has arrived."""
        try:
            while data := self.ours.recv(1 << 16):
                self.data += data
            self.is_ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_ended = True

    def end_turn(self) -> None:
        """Let the time of a turn pass for the page, and receive what it answers to that."""
        self.receive()
        if not self.is_ended:
            self.connection.end_turn()

        def is_done() -> bool:
            self.receive()
            is_closing = self.connection._is_lingering or self.connection.transport.is_closing()
            return self.is_ended or not is_closing

        self.page.until(is_done)

    def hang_up(self) -> None:
        """Close the connection, and let the page notice."""
        self.ours.close()
        self.page.until(lambda: self.connection not in self.page.server.server_state.connections)

    def responses(self) -> list[Received]:
        """Parse what was received; bodies of responses to HEAD are missing."""
        found, rest = [], self.data
        while rest:
            head, end, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            assert end and first.startswith("HTTP/1.1 "), self.data[:200]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            size = int(headers.get("content-length", 0)) if not rest.startswith(b"HTTP/1.1 ") else 0
            body, rest = rest[:size], rest[size:]
            if first.split()[1] != "100":
                found.append(Received(int(first.split()[1]), headers, body))
        return found
