"""Who may use the page: host names, pages of other sites, and a token.

The token comes in the header `Authorization: Bearer`, for programs, or once in the page's address, for browsers: the
answer then sets a cookie. The cookie is derived from the token, so that it cannot be used as one elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trichord.core.errors import UserError
from trichord.finetune.page.requests import Refused

# Of every response: also of errors, and of those that do not come from the application.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(self), microphone=(self)",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(?P<name>[^\s:@/\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")  # what an address holds without escapes, and nobody guesses
_MOST_FILE_BYTES = 1 << 12


@dataclass(frozen=True)
class Access:
    """The host names that requests may use, all if there are none, and the token that they must know, if any."""

    hosts: Sequence[str] = ()
    token: str | None = field(default=None, repr=False)

    def refusal(self, request: Request) -> Refused | None:
        """Return why a request is refused, or None."""
        host = request.headers.get("host", "")
        if self.hosts and ((found := _HOST.fullmatch(host)) is None or found["name"].lower() not in self.hosts):
            return Refused(400, "the request names another host", f"Use one of these names: {', '.join(self.hosts)}")
        origins = request.headers.getlist("origin") if request.method == "POST" else []
        if any(origin.partition("://")[2] != host for origin in origins):
            return Refused(403, "the request comes from a page of another site", "Open this page itself")
        if self.token is None or self.comes_with_token(request) or self._comes_with_cookie(request):
            return None
        hint = "Open the address with ?token= that trichord serve printed, or send Authorization: Bearer TOKEN"
        return Refused(401, "this page asks for a token", hint, {"WWW-Authenticate": "Bearer"})

    def comes_with_token(self, request: Request) -> bool:
        """Return whether a request comes with the token itself."""
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        in_header = kind.lower() == "bearer" and self._equals(sent.strip(), self.token)
        return in_header or self._equals(request.query_params.get("token", ""), self.token)

    def cookie(self) -> tuple[str, str]:
        """Return the name and value of the cookie; another page on this machine, with its own token, has another."""
        digest = hmac.new((self.token or "").encode(), b"cookie of the page", hashlib.sha256).hexdigest()
        return f"trichord-{digest[:8]}", digest[8:]

    def _comes_with_cookie(self, request: Request) -> bool:
        name, value = self.cookie()
        return self._equals(request.cookies.get(name, ""), value)

    @staticmethod
    def _equals(sent: str, expected: str | None) -> bool:
        return expected is not None and hmac.compare_digest(sent.encode(), expected.encode())


class Guard:
    """Middleware that refuses requests without access, and gives browsers that come with the token its cookie."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refused = self.access.refusal(request)
        if refused is not None:
            await refused.response()(scope, receive, send)
        elif self.access.token is not None and "token" in request.query_params:
            await self.app(scope, receive, self._with_cookie(send))
        else:
            await self.app(scope, receive, send)

    def _with_cookie(self, send: Send) -> Send:
        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                name, value = self.access.cookie()
                cookie = f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        return send_with_cookie


def read_token(path: Path) -> str:
    """Read a token from a file."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise UserError(f"--token-file {path}: {error.strerror}. Next: openssl rand -hex 16 > {path}") from error
    if not _TOKEN.fullmatch(text):
        raise UserError(
            f"--token-file {path}: expected one line of 16 to 200 letters, digits and -._~. "
            f"Next: openssl rand -hex 16 > {path}"
        )
    return text
