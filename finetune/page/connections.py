"""Connections to the page: how many are open, and how long a slow client may hold one.

A client that sends half a request, trickles an upload or does not read its answer costs an attacker nothing. So there
is a limit of connections, in total and for each address, and each must make progress while it is the client's turn.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from trichord.finetune.page.requests import Refused

_SLOW = Refused(408, "the request was not completed in time", "Send it again; a slow connection needs a smaller video")
_CROWDED = Refused(503, "too many connections are open", "Try again in a minute")
_CROWDED_ADDRESS = Refused(429, "too many connections are open from your address", "Close some, then try again")
_MALFORMED = Refused(400, "this is not an HTTP request that can be read", "Send HTTP/1.1, with headers up to 16 kB")


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of open connections, and the progress that each must make while it is the client's turn."""

    total: int = 128
    per_address: int = 32  # a browser opens up to 6
    turn_s: float = 10.0  # in which a request's head must be complete
    bytes_per_turn: int = 16 << 10  # of a body that is sent, or of an answer that is read, until it is complete


class OpenConnections:
    """The open connections, the oldest first; one without a complete request makes room for a new one."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._addresses: dict[PageConnection, str] = {}
        self._lingering: set[PageConnection] = set()

    def add(self, connection: PageConnection, address: str) -> Refused | None:
        """Add a connection, or return why there is no room for it."""
        neighbours = [each for each, other in self._addresses.items() if other == address]
        if len(neighbours) >= self.limits.per_address and not _make_room(neighbours):
            return _CROWDED_ADDRESS
        if len(self._addresses) >= self.limits.total and not _make_room(list(self._addresses)):
            return _CROWDED
        self._addresses[connection] = address
        return None

    def linger(self, connection: PageConnection) -> bool:
        """Return whether a refused connection may stay until its client has read why."""
        self._addresses.pop(connection, None)
        if len(self._lingering) >= self.limits.total:
            return False
        self._lingering.add(connection)
        return True

    def remove(self, connection: PageConnection) -> None:
        """Forget a closed connection."""
        self._addresses.pop(connection, None)
        self._lingering.discard(connection)


def _make_room(connections: Iterable[PageConnection]) -> bool:
    for each in connections:
        if each.is_between_requests:
            each.refuse(_SLOW)
            return True
    return False


def client_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 address, which is often all its."""
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


class PageConnection(H11Protocol):
    """An HTTP connection of uvicorn's that is closed, with an error, when its client is too slow."""

    def __init__(self, *, connections: OpenConnections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._open, self._limits = connections, connections.limits
        self._timer: asyncio.TimerHandle | None = None
        self.received = 0  # bytes
        self._received_before = self._unread_before = 0
        self._is_lingering = False

    @property
    def is_between_requests(self) -> bool:
        """Whether no complete head of a request has come since the last answer, and that has been sent."""
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and not self._is_lingering and not self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _Lingering(transport, self._close)  # type: ignore[assignment]  # also uvicorn closes it
        refused = self._open.add(self, client_of(self.client[0] if self.client else ""))
        if refused is not None:
            self.refuse(refused, is_due=True)
        else:
            self._begin_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.remove(self)
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self._is_lingering:
            super().data_received(data)

    def handle_events(self) -> None:
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle:
            self._begin_turn()

    def on_response_complete(self) -> None:
        if not self._is_lingering:
            self._begin_turn()
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self.refuse(_MALFORMED, is_due=self.conn.our_state is h11.IDLE)

    def refuse(self, refused: Refused, is_due: bool = False) -> None:
        """Close the connection, with an error if that is due, or if a request has begun that has no answer yet."""
        is_due = is_due or self.conn.our_state is h11.SEND_RESPONSE or bool(self.conn.trailing_data[0])
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # for the request's handler its client has left
            self.cycle.message_event.set()
        if is_due and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(refused)
        self.transport.close()

    def _write(self, refused: Refused) -> None:
        body = refused.as_json()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        is_head = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
        head = h11.Response(status_code=refused.status, headers=headers, reason=STATUS_PHRASES[refused.status])
        for event in (head, h11.Data(data=b"" if is_head else body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def _close(self, transport: asyncio.Transport) -> None:
        """Close the connection, but first let a client that may still be sending read its answer.

        Data that arrives at a closed connection resets it, and the answer could be lost.
        """
        is_refused = self.conn.our_state is h11.MUST_CLOSE  # uvicorn first makes it CLOSED
        is_answered_early = self.conn.our_state is h11.CLOSED and self.conn.their_state is h11.SEND_BODY
        if self._is_lingering or transport.is_closing() or not (is_refused or is_answered_early):
            self._open.remove(self)  # now, as others may connect before it is lost
            transport.close()
        elif not self._open.linger(self):
            transport.abort()
        else:
            self._is_lingering = True
            self._unset_keepalive_if_required()
            self.flow.resume_reading()
            transport.write_eof()
            self._begin_turn()

    def _begin_turn(self) -> None:
        self._cancel_timer()
        self._received_before, self._unread_before = self.received, self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(self._limits.turn_s, self.end_turn)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end_turn(self) -> None:
        """Close the connection if its client made too little progress in its turn; otherwise begin another turn."""
        unread = self.transport.get_write_buffer_size()
        read = self._unread_before - unread  # below 0 if more was written
        if unread and not 0 <= read < self._limits.bytes_per_turn:
            self._begin_turn()
        elif unread or self._is_lingering:
            self.transport.abort()
        elif self.is_turn_of_client and not self._has_sent_enough():
            self.refuse(_SLOW)
        else:
            self._begin_turn()

    @property
    def is_turn_of_client(self) -> bool:
        """Whether a request, or the rest of one, is missing and would be read."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.flow.read_paused

    def _has_sent_enough(self) -> bool:
        is_body_wanted = self.cycle is not None and not self.cycle.response_complete
        return is_body_wanted and self.received - self._received_before >= self._limits.bytes_per_turn


class _Lingering:
    """A transport whose `close` is the function of its connection."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[asyncio.Transport], None]) -> None:
        self._transport, self._close = transport, close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._close(self._transport)
