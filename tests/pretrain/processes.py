"""Run a program as several ranks: real processes with the environment of torchrun."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from tests.warm import ROOT, Program


def start_ranks(words: Sequence[str], ranks: int, threads: int = 1) -> list[Program]:
    """Start `python -m` with these arguments, or `python -c`, once for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
    return [Program(words, ROOT, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)]


def run_ranks(words: Sequence[str], ranks: int, threads: int = 1) -> list[str]:
    """Run all ranks to the end and return the output of each; if one fails, end all and raise its output."""
    programs = start_ranks(words, ranks, threads)
    try:
        outputs = [program.communicate() for program in programs]
    finally:
        for program in programs:
            program.kill()
    for program, (_, errors) in zip(programs, outputs, strict=True):
        assert program.returncode == 0, errors
    return [out for out, _ in outputs]
