"""A fixed slice of the mutants of weights; `make fuzz` runs them by the thousand."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzzing.weights import Weights, kinds


def test_mutants_are_used_or_refused_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = Weights()
    subject.prepare()
    outcomes: Counter[str] = Counter()
    for number in range(1, 16 * len(kinds())):  # number 0 is inspected, which takes as long as all others
        began_s = time.thread_time()
        outcomes[subject.run(0, number)] += 1
        assert time.thread_time() - began_s < 2 * subject.allowed_s
    assert {f"{kind} refused" for kind in kinds() if kind != "inspected"} <= outcomes.keys()
    assert list(tmp_path.iterdir()) == []
