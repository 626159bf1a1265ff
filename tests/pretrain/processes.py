"""Run a program as several ranks, real processes that find each other as torchrun's would."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from tests.warm import ROOT, Program


def start_ranks(words: Sequence[str], ranks: int, threads: int = 1) -> list[Program]:
    """Begin `python -m` and these words, or `python` and a `-c`, once for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
    return [Program(words, ROOT, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)]


def run_ranks(words: Sequence[str], ranks: int, threads: int = 1) -> list[str]:
    """Run all ranks to their ends and give what each printed; if one fails, all end and its words are raised."""
    programs = start_ranks(words, ranks, threads)
    try:
        told = [program.communicate() for program in programs]
    finally:
        for program in programs:
            program.kill()
    for program, (_, errors) in zip(programs, told, strict=True):
        assert program.returncode == 0, errors
    return [out for out, _ in told]
