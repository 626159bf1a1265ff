"""Server of the page: load the runs, bind the address, and serve until interrupted."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import uvicorn
from starlette.types import ASGIApp

from trichord.core.errors import UserError
from trichord.finetune.page.access import LOOPBACK, SECURITY_HEADERS, Access, read_token
from trichord.finetune.page.app import make_app
from trichord.finetune.page.connections import ConnectionLimits, OpenConnections, PageConnection
from trichord.finetune.page.inference import VideoInference, samples_of
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.device import pick_device
from trichord.shards.decoding.track import DecodeLimits

_MOST_DECODED_BYTES = 512 << 20  # of a video, which everyone with the address may send
_SHUTDOWN_S = 10  # for requests in progress at shutdown
_TOKEN_BYTES = 24


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, at which address, the limits of a video, and where the token comes from, if there is one."""

    runs: Sequence[Path]
    index: Path | None
    samples: str | None
    host: str
    port: int
    limits: DecodeLimits
    token: bool
    token_file: Path | None


def run_serve(arguments: Namespace) -> int:
    """Serve the page of parsed arguments until interrupted."""
    limits = DecodeLimits(
        max_bytes=arguments.max_megabytes * 10**6,
        max_seconds=float(arguments.max_seconds),
        max_decoded_bytes=_MOST_DECODED_BYTES,
    )
    names = ("runs", "index", "samples", "host", "port", "token", "token_file")
    serve(ServeOptions(**{name: getattr(arguments, name) for name in names}, limits=limits))
    return 0


def serve(served: ServeOptions) -> None:
    """Serve until Ctrl-C."""
    token = _token_of(served)
    listening = _listen(served.host, served.port)  # first, because a port in use is found faster than runs are loaded
    torch.set_num_threads(thread_plan(1))
    inference = VideoInference(served.runs, served.index, served.limits, pick_device(0))
    samples = samples_of(served.samples, served.runs)
    is_private = _is_loopback(listening.getsockname()[0])
    server = make_server(make_app(inference, samples, Access(LOOPBACK if is_private else (), token)))
    lines = [
        *_welcome(inference, len(samples)),
        *_reachable(served, token, is_private),
        _ready(served, token, listening),
    ]
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again after shutdown
        pass
    finally:
        listening.close()
    print("stopped", file=sys.stderr)


def make_server(app: ASGIApp, limits: ConnectionLimits = ConnectionLimits()) -> uvicorn.Server:  # noqa: B008  (frozen)
    """Return a server of the application, whose connections have limits and whose responses have security headers."""
    connection = partial(PageConnection, connections=OpenConnections(limits))
    settings = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]  # a function in place of a class
        ws="none",
        log_level="error",  # warnings are of clients' mistakes
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=list(SECURITY_HEADERS.items()),
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return uvicorn.Server(settings)


def _token_of(served: ServeOptions) -> str | None:
    if served.token_file is not None:
        return read_token(served.token_file)
    return secrets.token_urlsafe(_TOKEN_BYTES) if served.token else None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}. Next: another --port") from error
    # asyncio does this only for sockets with an explicit protocol; without it, a short response may be delayed 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _welcome(inference: VideoInference, samples: int) -> list[str]:
    lines = []
    for run in inference.about():
        classes = f", classes: {len(run['classes'])}" if run["classes"] else ""
        lines.append(f"{run['name']}: {run['kind']}{classes}, step {run['step']}")
    if inference.nearest is not None:
        lines.append(f"index rows: {len(inference.nearest.index):,}")
    limits = inference.limits
    lines.append(f"sample clips: {samples}; videos up to {limits.max_bytes / 1e6:g} MB and {limits.max_seconds:g} s")
    return lines


def _reachable(served: ServeOptions, token: str | None, is_private: bool) -> list[str]:
    """Return warnings about who else can use the page."""
    if token is None and not is_private:
        return [
            "warning: everyone who reaches this machine can use the page; --token asks for a token, --host 127.0.0.1 "
            "makes the page local"
        ]
    if served.token_file is not None and served.token_file.stat().st_mode & 0o077:
        return [f"warning: others on this machine may read {served.token_file}. Next: chmod 600 {served.token_file}"]
    return []


def _ready(served: ServeOptions, token: str | None, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if token is not None:
        address += f"/?token={token if served.token else f'TOKEN, with the token of {served.token_file}'}"
    return f"ready: {address}   (Ctrl-C to stop)"
