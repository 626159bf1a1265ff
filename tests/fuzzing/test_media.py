"""A fixed slice of the mutants of media; `make fuzz` runs them by the thousand."""

from __future__ import annotations

import time

import pytest

from tests.fuzzing.media import USES, Media, sources


@pytest.mark.parametrize("use", range(len(USES)), ids=list(USES))
def test_mutants_are_used_or_refused_with_a_cause(use: int) -> None:
    kinds, subject = len(sources()), Media()
    numbers = [kinds * (len(USES) * turn + use) + kind for turn in range(3) for kind in range(kinds)]
    outcomes = set()
    for number in numbers:
        began_s = time.thread_time()
        outcomes.add(subject.run(0, number))
        assert time.thread_time() - began_s < 2 * subject.allowed_s
    assert {"used", "unreadable_video"} <= outcomes
