"""Requests to the page: uploads, the queue for models, and refusals.

An upload is streamed to an unnamed file, and refused as soon as it is too large. Work for models is queued and runs
one piece at a time on a separate thread. A refused request gets an error and a hint as JSON, for people and programs.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

from starlette.requests import Request

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.record import RawSample


async def receive(request: Request, most_bytes: int) -> IO[bytes]:
    """Receive a request's body; the file is deleted when it is closed, or when this process ends in any way."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
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


T = TypeVar("T")


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

    async def do(self, work: Callable[[], T], ticket: str = "") -> T:
        """Wait in the queue, then for the work; raise QueueIsFull at once if too many are waiting."""
        if len(self._tickets) >= self.longest:
            raise QueueIsFull
        self._tickets.append(ticket)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
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
    """A refused request, with its HTTP status, an error and a hint."""

    def __init__(self, status: int, error: str, hint: str) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint


def of_sample(error: SampleError) -> Refused:
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


def of_mistake(error: UserError) -> Refused:
    """Return the refusal for a user error; the text after `Next:` is the hint."""
    message, _, hint = str(error).partition("Next: ")
    return Refused(400, message.strip(), hint.strip() or "See GET /api/about for what this page can do")
