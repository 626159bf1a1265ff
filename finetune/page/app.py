"""Routes of the page: their requests and responses, and the security middleware."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trichord.core.errors import SampleError, UserError
from trichord.finetune.page.inference import VideoInference
from trichord.finetune.page.nearest import Nearest, SearchRequest
from trichord.finetune.page.requests import QueueIsFull, Refused, WorkQueue, of_mistake, of_sample, receive, sample_of
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample

LONGEST_QUEUE = 16
_QUESTION_BYTES = 1 << 20
_TICKET = re.compile(r"[A-Za-z0-9-]{1,64}")
_RANGE = re.compile(r"bytes=(?P<first>\d{1,15})-(?P<last>\d{0,15})")
_STATIC = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_PLAYED = {"mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/mp4", "webm": "video/webm"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(self), microphone=(self)",
}

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
            return JSONResponse(await self.models.do(lambda: self.inference.predict(raw), _ticket(request)))
        if len(self.models) >= self.models.longest:  # before the whole video is sent
            raise QueueIsFull
        file = await receive(request, self.inference.limits.max_bytes)
        try:
            found = await self.models.do(lambda: self.inference.predict(sample_of(file, "upload")), _ticket(request))
        finally:
            file.close()
        return JSONResponse(found)

    async def search(self, request: Request) -> Response:
        """POST /api/search: take a question as JSON; return rows of the index."""
        nearest = self._nearest()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _QUESTION_BYTES:
                raise Refused(413, "the question is too large", "Send one vector, or one text, at a time")
        try:
            question = SearchRequest.model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the question"
            hint = 'Send for example {"text": "a person opens a box", "k": 10, "where": {"label": "jumping"}}'
            raise Refused(400, f"{where}: {first['msg']}", hint) from error
        vector = question.vector
        if question.text is not None:
            text = question.text
            vector = await self.models.do(lambda: nearest.read(text))
        return JSONResponse({"hits": await self.searches.do(lambda: nearest.answer(question, vector))})

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
        return JSONResponse({"runs": inference.about(), "index": index, "limits": limits, "samples": samples})

    async def queue_position(self, request: Request) -> Response:
        """GET /api/line?ticket=…: return how many requests are ahead of the video that was sent with this ticket."""
        return JSONResponse({"ahead": self.models.ahead_of(_ticket(request))})

    async def sample(self, request: Request) -> Response:
        """GET /api/samples/N: return a sample clip."""
        return _playable(request, self._sample(str(request.path_params["number"])))

    async def hit(self, request: Request) -> Response:
        """GET /api/hits/SEGMENT/ROW: return the video of a row of the index."""
        nearest, place = self._nearest(), (request.path_params["segment"], request.path_params["row"])
        try:
            raw = await self.searches.do(lambda: nearest.clip(*place))
        except (LookupError, SampleError) as error:
            raise Refused(
                404, f"no such clip: {error}", "Search again: the index or its shards have changed"
            ) from error
        return _playable(request, raw)

    def _nearest(self) -> Nearest:
        if self.inference.nearest is None:
            raise Refused(404, "this page has no index", "Start it with --index DIR")
        return self.inference.nearest

    def _sample(self, number: str) -> RawSample:
        if not number.isdecimal() or int(number) >= len(self.samples):
            raise Refused(404, f"there is no sample {number[:20]!r}", f"Samples: {len(self.samples)}, numbered from 0")
        return self.samples[int(number)]


def make_app(inference: VideoInference, samples: list[RawSample], hosts: list[str]) -> Starlette:
    """Build the application; `hosts` are the host names that requests may use, or `*`."""
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
        Route("/api/samples/{number:int}", page.sample),
        Route("/api/hits/{segment:int}/{row:int}", page.hit),
        Route("/api/look", page.predict, methods=["POST"]),
        Route("/api/search", page.search, methods=["POST"]),
    ]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_Guard)]
    handlers: dict[Any, Any] = {
        Refused: lambda _, error: _refusal(error),
        SampleError: lambda _, error: _refusal(of_sample(error)),
        UserError: lambda _, error: _refusal(of_mistake(error)),
        QueueIsFull: lambda *_: _refusal(Refused(503, "too many requests are waiting", "Try again in a minute")),
        ClientDisconnect: lambda *_: _refusal(Refused(400, "the upload was not completed", "Send the video again")),
        Exception: lambda *_: _refusal(Refused(500, "internal error", "See the log of trichord serve")),
        HTTPException: lambda _, error: _refusal(Refused(error.status_code, error.detail, "See GET /api/about")),
    }
    return Starlette(routes=routes, middleware=guards, exception_handlers=handlers, lifespan=running)


class _Guard:
    """Middleware that adds security headers to every response, and refuses POST requests from pages of other sites."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        asked = Request(scope)
        origin = asked.headers.get("origin")
        if asked.method == "POST" and origin and urlsplit(origin).netloc != asked.headers.get("host"):
            refused = _refusal(Refused(403, "the request comes from a page of another site", "Open this page itself"))
            await refused(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def _static(name: str, kind: str) -> Handler:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")

    async def answer(request: Request) -> Response:
        return Response(text, media_type=kind)

    return answer


def _playable(request: Request, raw: RawSample) -> Response:
    """Return a video or the requested byte range of it; browsers need ranges to seek."""
    extension = next(each for each in VIDEO_EXTENSIONS if each in raw.members)
    data, kind = raw.members[extension], _PLAYED.get(extension, "application/octet-stream")
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None:
        return Response(data, media_type=kind, headers={"Accept-Ranges": "bytes"})
    first, last = int(asked["first"]), min(int(asked["last"] or len(data)), len(data) - 1)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    where = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Response(data[first : last + 1], 206, where, kind)


def _refusal(refused: Refused) -> Response:
    return JSONResponse({"error": refused.error, "hint": refused.hint}, status_code=refused.status)


def _ticket(request: Request) -> str:
    ticket = request.query_params.get("ticket", "")
    if ticket and not _TICKET.fullmatch(ticket):
        raise Refused(400, "invalid ticket", "Use at most 64 letters, digits and -")
    return ticket
