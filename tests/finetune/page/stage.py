"""A page for tests: small runs and an index, served on loopback from a thread, and a client."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from starlette.applications import Starlette
from starlette.types import ASGIApp

from tests.finetune import small_head
from tests.finetune.jobs import without_counting
from tests.finetune.tasks.captioning import small_captions
from tests.pretrain.engine import small_run
from tests.warm import HANGS_AFTER_S
from trichord.finetune.page.access import Access
from trichord.finetune.page.app import make_app
from trichord.finetune.page.connections import ConnectionLimits
from trichord.finetune.page.inference import VideoInference, samples_of
from trichord.finetune.page.serving import _listen, make_server
from trichord.launch import cli
from trichord.pretrain.engine import run as engine_run
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.sample import pick_samples

CPU = torch.device("cpu")
ACCESS, LIMITS = Access(["127.0.0.1"]), ConnectionLimits()
MOST_BYTES, MOST_SECONDS = 400_000, 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without any proxy


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)


def make_runs(top: Path) -> None:
    """Train a head, captions, and video with text for a step or two each; build an index with the last."""
    quick: dict[str, Any] = {"steps": 2, "checkpoints__every_steps": 2}
    several = {**small_head.BINARY, **small_head.SLIDING}
    actions = small_head.small_config(small_head.write_shards(top / "clips", 8, several=True), **several, **quick)
    captions = small_captions.small_config(small_captions.write_shards(top / "captioned", 8), **quick)
    small_run.write_shards(top / "texts", sound=False, text=True)
    changes = small_run.video_text_changes(classes=None, prompts=False)
    changes |= {"steps": 1, "checkpoints__every_steps": 1, "optimiser": {"learning_rate": 1e-3}}
    found = small_run.small_config(top / "texts", **changes)
    with without_counting():
        for name, config in (("actions", actions), ("captioner", captions), ("found", found)):
            engine_run.pretrain(config, top / name)
    vectors = str(top / "vectors")
    for words in (["embed", str(top / "found"), str(top / "texts"), "--out", vectors], ["index", "build", vectors]):
        assert cli.main(words) == 0


def clips_of(shards: Path, count: int) -> dict[str, bytes]:
    """Return the videos of a data set by their keys."""
    return {raw.key: raw.video() for raw in pick_samples(str(shards), count)}


def app_of(top: Path, access: Access = ACCESS) -> Starlette:
    """Return a page with all of it."""
    limits = DecodeLimits(max_bytes=MOST_BYTES, max_seconds=MOST_SECONDS)
    runs = [top / "actions", top / "captioner", top / "found"]
    inference = VideoInference(runs, top / "vectors/index", limits, CPU)
    return make_app(inference, samples_of(str(top / "clips"), runs), access)


@contextmanager
def served(app: ASGIApp, limits: ConnectionLimits = LIMITS) -> Iterator[str]:
    """Serve an application; yield its address."""
    listening, server = _listen("127.0.0.1", 0), make_server(app, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def ask(address: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Get an address, or post bytes, an iterable of bytes, or an object as JSON."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(address, data=data, headers=dict(headers or {}))
    try:
        with _DIRECT.open(request, timeout=HANGS_AFTER_S) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())
