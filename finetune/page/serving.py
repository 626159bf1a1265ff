"""Server of the page: load the runs, bind the address, and serve until interrupted."""

from __future__ import annotations

import ipaddress
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from trichord.core.errors import UserError
from trichord.finetune.page.app import make_app
from trichord.finetune.page.inference import VideoInference, samples_of
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.device import pick_device
from trichord.shards.decoding.track import DecodeLimits

_LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
_MOST_CONNECTIONS = 100  # each may upload a file as large as the limit
_MOST_DECODED_BYTES = 512 << 20  # of a video, which everyone with the address may send
_SHUTDOWN_S = 10  # for requests in progress at shutdown


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, at which address, and the limits of a video."""

    runs: Sequence[Path]
    index: Path | None
    samples: str | None
    host: str
    port: int
    limits: DecodeLimits


def run_serve(arguments: Namespace) -> int:
    """Serve the page of parsed arguments until interrupted."""
    limits = DecodeLimits(
        max_bytes=arguments.max_megabytes * 10**6,
        max_seconds=float(arguments.max_seconds),
        max_decoded_bytes=_MOST_DECODED_BYTES,
    )
    names = ("runs", "index", "samples", "host", "port")
    serve(ServeOptions(**{name: getattr(arguments, name) for name in names}, limits=limits))
    return 0


def serve(served: ServeOptions) -> None:
    """Serve until Ctrl-C."""
    listening = _listen(served.host, served.port)  # first, because a port in use is found faster than runs are loaded
    torch.set_num_threads(thread_plan(1))
    inference = VideoInference(served.runs, served.index, served.limits, pick_device(0))
    samples = samples_of(served.samples, served.runs)
    is_private = _is_loopback(listening.getsockname()[0])
    app = make_app(inference, samples, _LOOPBACK if is_private else ["*"])
    for line in _welcome(inference, len(samples), listening, is_private):
        print(line, file=sys.stderr, flush=True)
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again after shutdown
        pass
    finally:
        listening.close()
    print("stopped", file=sys.stderr)


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


def _welcome(inference: VideoInference, samples: int, listening: socket.socket, is_private: bool) -> list[str]:
    lines = []
    for run in inference.about():
        classes = f", classes: {len(run['classes'])}" if run["classes"] else ""
        lines.append(f"{run['name']}: {run['kind']}{classes}, step {run['step']}")
    if inference.nearest is not None:
        lines.append(f"index rows: {len(inference.nearest.index):,}")
    host, port = listening.getsockname()[:2]
    limits = inference.limits
    lines.append(f"sample clips: {samples}; videos up to {limits.max_bytes / 1e6:g} MB and {limits.max_seconds:g} s")
    if not is_private:
        lines.append("note: everyone who reaches this machine can use the page; --host 127.0.0.1 makes it local")
    lines.append(f"ready: http://{f'[{host}]' if ':' in host else host}:{port}   (Ctrl-C to stop)")
    return lines
