"""Requests to the page: uploads, the queue for models, and refusals.

An upload is streamed to an unnamed file, and refused as soon as it is too large. Work for models is queued and runs
one piece at a time on a separate thread; it is dropped when its client has gone. A refused request gets an error and a
hint as JSON, for people and programs.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.record import RawSample


async def receive(request: Request, most_bytes: int) -> IO[bytes]:
    """Receive a request's body; the file is deleted when it is closed, or when this process ends in any way."""
    announced = number_in(request.headers.get("content-length", ""))
    if announced is not None and announced > most_bytes:
        raise _too_large(most_bytes)
    file = tempfile.TemporaryFile(prefix="trichord-")  # noqa: SIM115  (closed by its reader)
    try:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most_bytes:
                raise _too_large(most_bytes)
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    if size == 0:
        file.close()
        raise Refused(400, "no video was received", "Send its bytes as the body, or name a sample: /api/look?sample=0")
    return file


def sample_of(file: IO[bytes], name: str) -> RawSample:
    """Read the received file as a sample and close it; the video format is detected from its bytes."""
    with file:
        file.seek(0)
        return RawSample(name, "upload", {"mp4": file.read()})


def _too_large(most_bytes: int) -> Refused:
    limit = f"{most_bytes / 1e6:g} MB"
    return Refused(413, f"the video is larger than {limit}", "Send a smaller video, or raise --max-megabytes")


_NUMBER = re.compile(r"[0-9]{1,20}")


def number_in(text: str) -> int | None:
    """Return the number that a text consists of, or None; Python refuses to read thousands of digits."""
    return int(text) if _NUMBER.fullmatch(text) else None


T = TypeVar("T")


class Client:
    """The client of a request; its departure is noticed from the event loop, and asked for from other threads."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._gone = receive, threading.Event()

    def is_gone(self) -> bool:
        """Return whether the client hung up, or no longer waits for other reasons."""
        return self._gone.is_set()

    def leave(self) -> None:
        """Note that no one waits for the answer."""
        self._gone.set()

    async def hang_up(self) -> None:
        """Wait until the client hangs up; the rest of the request's body is thrown away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class QueueIsFull(Exception):
    """Raised when too many requests are waiting."""


class WorkQueue:
    """Queue of work; used from one event loop, while the work itself runs on a separate thread."""

    def __init__(self, name: str, longest: int) -> None:
        self.longest = longest
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._tickets: list[str] = []

    def __len__(self) -> int:
        return len(self._tickets)

    async def do(self, work: Callable[[], T], client: Client, ticket: str = "") -> T:
        """Wait in the queue, then for the work; raise QueueIsFull at once if too many are waiting.

        Raise ClientDisconnect when the client hangs up. Its work does not begin then; if it has begun, it may ask the
        client whether it is gone, and stop.
        """
        if len(self._tickets) >= self.longest:
            raise QueueIsFull
        self._tickets.append(ticket)
        working = asyncio.get_running_loop().run_in_executor(self._thread, work)
        leaving = asyncio.ensure_future(client.hang_up())
        leaving.add_done_callback(lambda _: working.cancel())
        try:
            return await working
        except asyncio.CancelledError:
            client.leave()
            if leaving.done():
                raise ClientDisconnect from None
            raise
        finally:
            leaving.cancel()
            self._tickets.remove(ticket)

    def ahead_of(self, ticket: str) -> int | None:
        """Return how many tickets are ahead, the running one included; None for a ticket that is not in the queue."""
        return self._tickets.index(ticket) if ticket and ticket in self._tickets else None

    def close(self) -> None:
        """Take no more work, and cancel what is waiting."""
        self._thread.shutdown(wait=False, cancel_futures=True)


_OF_THE_LIBRARY = re.compile(r"\[Errno \d+\] |: '<none>'$")
_TOO_MUCH = {Cause.TOO_LONG, Cause.TOO_MANY_BYTES, Cause.TOO_MANY_PIXELS, Cause.TOO_MANY_FRAMES}


class Refused(Exception):
    """A refused request, with its HTTP status, an error and a hint, and headers that its status requires."""

    def __init__(self, status: int, error: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.hint, self.headers = status, error, hint, headers

    def as_json(self) -> bytes:
        """Return the body of the response."""
        return as_json({"error": self.error, "hint": self.hint})

    def response(self) -> Response:
        """Return the response."""
        return Response(self.as_json(), self.status, self.headers, "application/json")


def as_json(content: object) -> bytes:
    """Return content of any origin as JSON; halves of surrogate pairs, which UTF-8 cannot hold, become `?`."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def refusal_of(error: Exception) -> Refused:
    """Return the refusal of a request whose handler raised an error."""
    match error:
        case Refused():
            return error
        case SampleError():
            return _of_sample(error)
        case UserError():
            return _of_mistake(error)
        case QueueIsFull():
            return Refused(503, "too many requests are waiting", "Try again in a minute")
        case ClientDisconnect():
            return Refused(400, "the upload was not completed", "Send the video again")
        case HTTPException():
            return Refused(error.status_code, error.detail, "See GET /api/about", error.headers)
    return Refused(500, "internal error", "See the log of trichord serve")


def _of_sample(error: SampleError) -> Refused:
    """Return the refusal of a video that cannot be used."""
    if error.cause is Cause.TOO_LONG:
        return Refused(413, f"the video is too long: {error.detail}", "Send a shorter video, or raise --max-seconds")
    if error.cause in _TOO_MUCH:
        return Refused(413, f"the video is too large: {error.detail}", "Send a smaller video")
    if error.cause is Cause.TIMEOUT:
        return Refused(422, f"the video takes too long to decode: {error.detail}", "Send a shorter or smaller video")
    detail = _OF_THE_LIBRARY.sub("", error.detail)
    return Refused(
        422, f"this cannot be read as a video: {detail}", "Send an mp4 or webm file that other programs play"
    )


def _of_mistake(error: UserError) -> Refused:
    """Return the refusal for a user error; the text after `Next:` is the hint."""
    message, _, hint = str(error).partition("Next: ")
    return Refused(400, message.strip(), hint.strip() or "See GET /api/about for what this page can do")
