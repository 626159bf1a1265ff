"""What every subject of the fuzzing offers."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Subject(ABC):
    """One kind of input from outside, and its uses."""

    allowed_s: float  # of processor time for a mutant; twice as much is a failure

    @abstractmethod
    def prepare(self) -> None:
        """Make what every mutant starts from, once in a process; files belong into the current folder."""

    @abstractmethod
    def run(self, seed: int, number: int) -> str:
        """Use one mutant in one way, and leave no file behind; return what came of it in a word or two.

        Any exception is a failure.
        """
