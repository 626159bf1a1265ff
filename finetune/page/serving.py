"""Opens the runs, takes an address, and serves until it is told to stop."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from trichord.core.errors import UserError
from trichord.finetune.page.app import make_app
from trichord.finetune.page.watcher import Watcher, samples_of
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.device import pick_device
from trichord.shards.decoding.track import DecodeLimits

_LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
_MOST_CONNECTIONS = 100  # each may bring a file as large as the limit
_PATIENCE_S = 10  # for answers that are under way when it is told to stop


@dataclass(frozen=True)
class Served:
    """What is served where, and what a video may be."""

    runs: Sequence[Path]
    index: Path | None
    samples: str | None
    host: str
    port: int
    limits: DecodeLimits


def serve(served: Served) -> None:
    """Serve until Ctrl-C."""
    listening = _listen(served.host, served.port)  # first, for opening runs takes longer than finding a port taken
    torch.set_num_threads(thread_plan(1))
    watcher = Watcher(served.runs, served.index, served.limits, pick_device(0))
    samples = samples_of(served.samples, served.runs)
    is_private = _is_loopback(listening.getsockname()[0])
    app = make_app(watcher, samples, _LOOPBACK if is_private else ["*"])
    for line in _welcome(watcher, len(samples), listening, is_private):
        print(line, file=sys.stderr, flush=True)
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_PATIENCE_S,
    )
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again when all is closed
        pass
    finally:
        listening.close()
    print("stopped", file=sys.stderr)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened at: {error}. Next: another --port") from error
    # asyncio does this for sockets whose protocol is told; otherwise a short answer waits 40 ms for the one before.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _welcome(watcher: Watcher, samples: int, listening: socket.socket, is_private: bool) -> list[str]:
    lines = []
    for run in watcher.about():
        classes = f", {len(run['classes'])} classes" if run["classes"] else ""
        lines.append(f"{run['name']}: {run['kind']}{classes}, step {run['step']}")
    if watcher.nearest is not None:
        lines.append(f"index: {len(watcher.nearest.index):,} rows")
    host, port = listening.getsockname()[:2]
    limits = watcher.limits
    lines.append(f"{samples} sample clips; videos up to {limits.max_bytes / 1e6:g} MB and {limits.max_seconds:g} s")
    if not is_private:
        lines.append("note: everyone who reaches this machine may use the page; --host 127.0.0.1 keeps it to yourself")
    lines.append(f"ready: http://{f'[{host}]' if ':' in host else host}:{port}   (Ctrl-C stops)")
    return lines
