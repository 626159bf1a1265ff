"""A fixed slice of the mutants of files; `make fuzz` runs them by the thousand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzzing.files import FilesOfOthers

_OF_EACH = 12


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> FilesOfOthers:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("files"))
        made = FilesOfOthers()
        made.prepare()
    return made


def test_mutants_are_used_or_refused_and_nothing_beside_them_is_lost(
    subject: FilesOfOthers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = set()
    for number in range(_OF_EACH * len(subject.kinds)):
        began_s = time.thread_time()
        outcomes.add(subject.run(0, number))
        assert time.thread_time() - began_s < 2 * subject.allowed_s
        assert not list(tmp_path.iterdir())
    assert {outcome.partition(":")[0] for outcome in outcomes} == set(subject.kinds)
    assert {"runs: broken", "runs: finished", "shard: whole", "recipe: refused", "sample: bad_json"} <= outcomes
