"""Counts what a stream gave: shares of sources and silent clips, bad samples by cause; too many stop the run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from trichord.core.errors import UserError
from trichord.shards.reading.batch import BadSample, Batch

_LISTED = 20


class TooManyBadSamples(UserError):
    """More samples could not be used than the run allows."""


class Tally:
    """Adds batches up; `source_names` are in the order of the stream's sources."""

    def __init__(
        self, source_names: Sequence[str], max_bad_fraction: float, window_samples: int, least_samples: int
    ) -> None:
        self._source_names = source_names
        self._max_bad_fraction = max_bad_fraction
        self._window_samples = window_samples
        self._least_samples = least_samples if max_bad_fraction > 0 else 1
        self._window: deque[tuple[int, list[BadSample]]] = deque()
        self._in_window = 0
        self._samples = self._valid = self._silent = self._surplus = 0
        self._bad: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._named: set[tuple[str, str]] = set()
        self._per_source: Counter[int] = Counter()

    def add(self, batch: Batch) -> None:
        """Count a batch; raise TooManyBadSamples above the limit."""
        is_counted = [position >= 0 or is_valid for position, is_valid in _marks(batch)]
        samples = sum(is_counted)
        self._samples += samples
        self._valid += int(batch["valid"].sum())
        self._silent += int((batch["valid"] & ~batch["audio_present"]).sum())
        self._surplus += batch["surplus"]
        self._bad.update(each.cause.value for each in batch["bad"])
        self._per_source.update(s for s, counted in zip(batch["source"], is_counted, strict=True) if counted)
        for each in batch["left_out"]:
            if (each.shard, each.key) not in self._named:  # a shard is opened once a pass, its members count once
                self._named.add((each.shard, each.key))
                self._left_out[each.cause.value] += 1
        self._judge(samples, batch["bad"])

    def figures(self) -> dict[str, float | int | dict[str, float] | dict[str, int]]:
        """Give the figures so far."""
        return {
            "samples": self._samples,
            "bad_share": sum(self._bad.values()) / max(self._samples, 1),
            "bad": dict(self._bad),
            "silent_share": self._silent / max(self._valid, 1),
            "source_shares": {
                name: self._per_source[source] / max(self._samples, 1) for source, name in enumerate(self._source_names)
            },
            "members_left_out": dict(self._left_out),
            "samples_beyond_manifest": self._surplus,
        }

    def _judge(self, samples: int, bad: list[BadSample]) -> None:
        self._window.append((samples, bad))
        self._in_window += samples
        while self._in_window - self._window[0][0] >= self._window_samples:
            self._in_window -= self._window.popleft()[0]
        listed = [each for _, some in self._window for each in some]
        if self._in_window < self._least_samples or len(listed) <= self._max_bad_fraction * self._in_window:
            return
        causes = ", ".join(f"{cause} {n}" for cause, n in Counter(each.cause.value for each in listed).most_common())
        lines = "\n".join(f"  {each.shard} {each.key}: {each.cause}: {each.detail}" for each in listed[:_LISTED])
        more = f"\n  and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise TooManyBadSamples(
            f"{len(listed)} of the last {self._in_window} samples could not be used ({causes}); "
            f"max_bad_fraction={self._max_bad_fraction} allows {self._max_bad_fraction * self._in_window:.0f}:\n"
            f"{lines}{more}\nLook at the whole set with: trichord shards verify"
        )


def _marks(batch: Batch) -> list[tuple[int, bool]]:
    return list(zip(batch["position"], batch["valid"].tolist(), strict=True))
