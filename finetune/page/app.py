"""Routes of the page: their requests and responses."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trichord.core.errors import SampleError, UserError
from trichord.finetune.page.access import Access, Guard
from trichord.finetune.page.inference import VideoInference
from trichord.finetune.page.nearest import Nearest, SearchRequest
from trichord.finetune.page.requests import (
    Client,
    QueueIsFull,
    Refused,
    WorkQueue,
    as_json,
    number_in,
    receive,
    refusal_of,
    sample_of,
)
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample

LONGEST_QUEUE = 16
_QUESTION_BYTES = 1 << 20
_MOST_MISTAKES = 100  # of a question, to name the first; pydantic lists all of them, up to seconds for each request
_TICKET = re.compile(r"[A-Za-z0-9-]{1,64}")
_RANGE = re.compile(r"bytes=(?P<first>\d{1,15})-(?P<last>\d{0,15})")
_STATIC = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_PLAYED = {"mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/mp4", "webm": "video/webm"}

Handler = Callable[[Request], Awaitable[Response]]


class Page:
    """Request handlers; models run on one thread and searches on another, so that searches never wait for a video."""

    def __init__(self, inference: VideoInference, samples: list[RawSample]) -> None:
        self.inference, self.samples = inference, samples
        self.models = WorkQueue("models", LONGEST_QUEUE)
        self.searches = WorkQueue("searches", 16 * LONGEST_QUEUE)

    async def predict(self, request: Request) -> Response:
        """POST /api/look: take a video's bytes, or ?sample=N; return the output of the runs."""
        if "sample" in request.query_params:
            raw = self._sample(request.query_params["sample"])
            return await self._predict(request, lambda: raw)
        if len(self.models) >= self.models.longest:  # before the whole video is sent
            raise QueueIsFull
        file = await receive(request, self.inference.limits.max_bytes)
        try:
            return await self._predict(request, lambda: sample_of(file, "upload"))
        finally:
            file.close()

    async def _predict(self, request: Request, read: Callable[[], RawSample]) -> Response:
        client = Client(request.receive)

        def work() -> dict[str, Any]:
            return self.inference.predict(read(), client.is_gone)

        return _found(await self.models.do(work, client, _ticket(request)))

    async def search(self, request: Request) -> Response:
        """POST /api/search: take a question as JSON; return rows of the index."""
        nearest = self._nearest()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _QUESTION_BYTES:
                raise Refused(413, "the question is too large", "Send one vector, or one text, at a time")
        question, client = _question(bytes(body)), Client(request.receive)
        vector = question.vector
        if question.text is not None:
            text = question.text
            vector = await self.models.do(lambda: nearest.read(text), client)
        return _found({"hits": await self.searches.do(lambda: nearest.answer(question, vector), client)})

    async def about(self, request: Request) -> Response:
        """GET /api/about: return the models, classes, index, limits and samples."""
        inference = self.inference
        nearest = inference.nearest
        index = None
        if nearest is not None:
            catalogue = nearest.index.catalogue
            index = {"rows": len(nearest.index), "features": catalogue.dim, "texts": nearest.embedder is not None}
        samples = [
            {"number": number, "key": raw.key, "caption": next(iter(raw.annotation().captions), "")}
            for number, raw in enumerate(self.samples)
        ]
        limits = {"megabytes": inference.limits.max_bytes / 1e6, "seconds": inference.limits.max_seconds}
        return _found({"runs": inference.about(), "index": index, "limits": limits, "samples": samples})

    async def queue_position(self, request: Request) -> Response:
        """GET /api/line?ticket=…: return how many requests are ahead of the video that was sent with this ticket."""
        return _found({"ahead": self.models.ahead_of(_ticket(request))})

    async def sample(self, request: Request) -> Response:
        """GET /api/samples/N: return a sample clip."""
        return _playable(request, self._sample(request.path_params["number"]))

    async def hit(self, request: Request) -> Response:
        """GET /api/hits/SEGMENT/ROW: return the video of a row of the index."""
        nearest = self._nearest()
        segment, row = (number_in(request.path_params[name]) for name in ("segment", "row"))
        try:
            if segment is None or row is None:
                raise LookupError("expected two numbers")
            raw = await self.searches.do(lambda: nearest.clip(segment, row), Client(request.receive))
        except (LookupError, SampleError) as error:
            raise Refused(
                404, f"no such clip: {error}", "Search again: the index or its shards have changed"
            ) from error
        return _playable(request, raw)

    def _nearest(self) -> Nearest:
        if self.inference.nearest is None:
            raise Refused(404, "this page has no index", "Start it with --index DIR")
        return self.inference.nearest

    def _sample(self, text: str) -> RawSample:
        number = number_in(text)
        if number is None or number >= len(self.samples):
            raise Refused(404, f"there is no sample {text[:20]!r}", f"Samples: {len(self.samples)}, numbered from 0")
        return self.samples[number]


def make_app(inference: VideoInference, samples: list[RawSample], access: Access) -> Starlette:
    """Build the application."""
    page = Page(inference, samples)

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        yield
        page.models.close()
        page.searches.close()

    routes = [
        *(Route(path, _static(*found)) for path, found in _STATIC.items()),
        Route("/api/about", page.about),
        Route("/api/line", page.queue_position),
        Route("/api/samples/{number}", page.sample),
        Route("/api/hits/{segment}/{row}", page.hit),
        Route("/api/look", page.predict, methods=["POST"]),
        Route("/api/search", page.search, methods=["POST"]),
    ]
    errors = (Refused, SampleError, UserError, QueueIsFull, ClientDisconnect, HTTPException, Exception)
    handlers = dict.fromkeys(errors, _refuse)
    app = Starlette(
        routes=routes, middleware=[Middleware(Guard, access=access)], exception_handlers=handlers, lifespan=running
    )
    app.router.redirect_slashes = False  # they would repeat the host name that the request claims
    return app


def _static(name: str, kind: str) -> Handler:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")

    async def answer(request: Request) -> Response:
        return Response(text, media_type=kind)

    return answer


def _playable(request: Request, raw: RawSample) -> Response:
    """Return a video or the requested byte range of it; browsers need ranges to seek."""
    extension = next((each for each in VIDEO_EXTENSIONS if each in raw.members), None)
    if extension is None:  # a row of an index of sound
        raise Refused(404, f"{raw.key} has no video", "Use --index with an index of video")
    data, kind = raw.members[extension], _PLAYED.get(extension, "application/octet-stream")
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None:
        return Response(data, media_type=kind, headers={"Accept-Ranges": "bytes"})
    first, last = int(asked["first"]), min(int(asked["last"] or len(data)), len(data) - 1)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    where = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Response(data[first : last + 1], 206, where, kind)


def _found(content: object) -> Response:
    return Response(as_json(content), media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()


def _question(body: bytes) -> SearchRequest:
    try:
        return SearchRequest.model_validate_json(body)
    except ValidationError as error:
        found = f"the question has {error.error_count()} mistakes"
        if error.error_count() <= _MOST_MISTAKES:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            found = f"{'.'.join(map(str, first['loc'])) or 'the question'}: {first['msg']}"
        hint = 'Send for example {"text": "a person opens a box", "k": 10, "where": {"label": "jumping"}}'
        raise Refused(400, found, hint) from error


def _ticket(request: Request) -> str:
    ticket = request.query_params.get("ticket", "")
    if ticket and not _TICKET.fullmatch(ticket):
        raise Refused(400, "invalid ticket", "Use at most 64 letters, digits and -")
    return ticket
