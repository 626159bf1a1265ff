"""A video on its way in: written to a file without a name as it comes, and refused as soon as it is too large."""

from __future__ import annotations

import tempfile
from typing import IO

from starlette.requests import Request

from trichord.finetune.page.refusal import Refused
from trichord.shards.record import RawSample


async def receive(request: Request, most_bytes: int) -> IO[bytes]:
    """Take a request's body; the file is gone when it is closed, or when this process ends, however that comes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    file = tempfile.TemporaryFile(prefix="trichord-")  # noqa: SIM115  (closed by whoever reads it)
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
        raise Refused(400, "no video came", "Send its bytes as the body, or name a sample: /api/look?sample=0")
    return file


def sample_of(file: IO[bytes], name: str) -> RawSample:
    """Read what came as a sample, and let the file go; its own bytes say what kind of video it is."""
    with file:
        file.seek(0)
        return RawSample(name, "upload", {"mp4": file.read()})


def _too_large(most_bytes: int) -> Refused:
    limit = f"{most_bytes / 1e6:g} MB"
    return Refused(413, f"the video is larger than {limit}", "Send a shorter or smaller one, or raise --max-megabytes")
