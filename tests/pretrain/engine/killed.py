"""Runs a small run in forked children that are killed repeatedly, until one completes it.

    python -m tests.pretrain.engine.killed SHARDS RUN SEED

Half of the children kill themselves at one of the calls by which a save writes to disk, with a file half
written if the call writes; the others are killed from outside after a short time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.pretrain.engine.small_run import small_config
from trichord.pretrain.engine import checkpoint_files, run_lock
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.device import Peak

_CALLS = ("fsync", "rename", "replace")
_MOST_TRIES = 40


def main(shards: Path, run: Path, seed: int) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    importlib.import_module("deepspeed")  # seconds, once, and not in every child
    engine_run.training_flops = lambda *_: 0  # type: ignore[attr-defined,assignment]
    engine_run.peak_flops = lambda *_: Peak(1.0, "known", "none")  # type: ignore[attr-defined,assignment]
    run_lock._SETTLE_S = 0.01  # no other process uses the folder of a killed one
    rng = np.random.default_rng(seed)
    ends: list[str] = []
    while len(ends) < _MOST_TRIES and (not ends or ends[-1] != "0"):
        is_inside, call, after_s = len(ends) % 2 == 0, int(rng.integers(1, 16)), float(rng.uniform(0.05, 1.0))
        child = os.fork()
        if child == 0:
            _run(shards, run, call if is_inside else None)
        if not is_inside:
            time.sleep(after_s * 1.1 ** len(ends))  # increasingly longer, so that a slow machine completes as well
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        ends.append(str(os.waitstatus_to_exitcode(status)))
    print("\n" + json.dumps(ends))


def _run(shards: Path, run: Path, die_at_call: int | None) -> None:
    if die_at_call is not None:
        left = [die_at_call]
        for name in _CALLS:
            setattr(os, name, _deadly(getattr(os, name), left))
        checkpoint_files.save_file = _half_written(checkpoint_files.save_file, left)  # type: ignore[attr-defined]
    code = 1
    try:
        engine_run.pretrain(small_config(shards, checkpoints__every_steps=1, checkpoints__keep_last=2), run)
        code = 0
    finally:
        os._exit(code)


def _deadly(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)

    return counted


def _half_written(save: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(tensors: Any, path: Path, **about: Any) -> None:
        left[0] -= 1
        save(tensors, path, **about)
        if left[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return counted


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
