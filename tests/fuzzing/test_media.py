"""A fixed slice of the mutants of media; `make fuzz` runs them by the thousand."""

from __future__ import annotations

import pytest

from tests.fuzzing.media import ALLOWED_S, USES, run, sources


@pytest.mark.parametrize("use", range(len(USES)), ids=list(USES))
def test_mutants_are_used_or_refused_with_a_cause(use: int) -> None:
    kinds = len(sources())
    numbers = [kinds * (len(USES) * turn + use) + kind for turn in range(3) for kind in range(kinds)]
    outcomes = [run(0, number) for number in numbers]
    assert {"used", "unreadable_video"} <= {outcome for outcome, _ in outcomes}
    assert max(seconds for _, seconds in outcomes) < 2 * ALLOWED_S
