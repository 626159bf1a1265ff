"""Who waits for the models: one piece of work after another on a thread of its own, each answer to who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class LineIsFull(Exception):
    """More would wait than anybody has patience for."""


class Line:
    """Used from one event loop; only the work itself runs elsewhere."""

    def __init__(self, name: str, longest: int) -> None:
        self.longest = longest
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._tickets: list[str] = []

    def __len__(self) -> int:
        return len(self._tickets)

    async def do(self, work: Callable[[], T], ticket: str = "") -> T:
        """Wait for one's turn and for the work; raise LineIsFull at once where too many wait."""
        if len(self._tickets) >= self.longest:
            raise LineIsFull
        self._tickets.append(ticket)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._tickets.remove(ticket)

    def ahead_of(self, ticket: str) -> int | None:
        """Count who comes before, the one at work among them; None for who does not wait."""
        return self._tickets.index(ticket) if ticket and ticket in self._tickets else None

    def close(self) -> None:
        """Take no more work, and leave what waits undone."""
        self._thread.shutdown(wait=False, cancel_futures=True)
