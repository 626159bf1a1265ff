"""Put two contenders to the same question in turn, each in its own process, and compare time and answers.

What is counted is the CPU time of the whole process, all its threads, so that a machine shared with others still gives
ratios that repeat; the two take turns question by question, so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.reading.tasks import TASKS
from trichord.core.errors import UserError
from trichord.core.processes import heed_parent_alone, worker_context

Question = tuple[Any, ...]


@dataclass(frozen=True)
class Duel:
    """What came of one comparison."""

    ours_ms: float  # median CPU time of one question
    theirs_ms: float
    ratio: float  # median of theirs / ours, question by question
    spread: tuple[float, float]  # quartiles of that ratio
    # Of each part of the answers: the largest mean absolute difference over the last two axes, such as a picture's rows
    # and columns.
    differs: tuple[float, ...]


class Contender:
    """One contender in its own process, answering questions."""

    def __init__(self, make: type[Any]) -> None:
        context = worker_context("torch")  # the one slow import that all share; no FFmpeg is loaded by it
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_answer_questions, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, task: str, question: Question) -> tuple[float, list[np.ndarray[Any, Any]]]:
        """Give CPU seconds and answer."""
        self._connection.send((task, question))
        try:
            seconds, answer = self._connection.recv()
        except EOFError as error:
            raise UserError(f"{task}: the contender's process died (exit code {self._process.exitcode})") from error
        if isinstance(answer, str):
            raise UserError(f"{task}: {answer}")
        return seconds, answer

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


def is_installed(make: type[Any]) -> bool:
    """Whether a contender can take part here."""
    return all(importlib.util.find_spec(name) is not None for name in make.needs)


def compare(
    task: str, ours: type[Any], theirs: type[Any], questions: Sequence[Question], rounds: int, beat: Callable[[], None]
) -> Duel:
    """Ask both the same questions in turn; the first round warms up and does not count."""
    laps: list[tuple[float, float]] = []
    apart: list[list[float]] = []
    with Contender(ours) as first, Contender(theirs) as second:
        for number in range(rounds + 1):
            for place, question in enumerate(questions):
                pair = [first, second] if (number + place) % 2 == 0 else [second, first]
                answers = {id(contender): contender.ask(task, question) for contender in pair}
                (mine_s, mine), (other_s, other) = answers[id(first)], answers[id(second)]
                if number == 0:
                    apart.append(_differences(mine, other))
                else:
                    laps.append((mine_s, other_s))
                beat()
    ratios = [other / mine for mine, other in laps]
    low, _, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return Duel(
        ours_ms=statistics.median(mine for mine, _ in laps) * 1e3,
        theirs_ms=statistics.median(other for _, other in laps) * 1e3,
        ratio=statistics.median(ratios),
        spread=(float(low), float(high)),
        differs=tuple(max(part) for part in zip(*apart, strict=True)),
    )


def _differences(mine: Iterable[Any], other: Iterable[Any]) -> list[float]:
    largest = []
    for one, two in zip(mine, other, strict=True):
        if one.shape != two.shape:
            raise UserError(f"the answers have shapes {one.shape} and {two.shape}, so they are not the same work")
        apart = np.abs(one.astype(np.float64) - two.astype(np.float64))
        largest.append(float(apart.mean(axis=tuple(range(apart.ndim))[-2:]).max()))
    return largest


def _answer_questions(connection: Connection, make: type[Any]) -> None:
    import torch

    heed_parent_alone()
    torch.set_num_threads(1)
    contender = make()
    while True:
        try:
            task, question = connection.recv()
        except EOFError:
            return
        try:
            started = time.process_time()
            answer = TASKS[task](contender, *question)
            connection.send((time.process_time() - started, answer))
        except (RuntimeError, ValueError, OSError, ImportError, AttributeError) as error:
            connection.send((0.0, f"{type(contender).__name__}: {error}"))
