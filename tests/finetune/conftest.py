"""A pretraining run for all tests of heads, and runs that do not count operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finetune.jobs import without_counting
from tests.pretrain.engine import small_run
from trichord.pretrain.engine import run as engine_run


@pytest.fixture(scope="session")
def svt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an SVT run; its shards, without labels, are next to it."""
    top = tmp_path_factory.mktemp("pretrained")
    with without_counting():
        engine_run.pretrain(small_run.small_config(small_run.write_shards(top / "plain"), steps=3), top / "svt")
    return top / "svt"


@pytest.fixture(scope="module")
def quick_starts() -> Iterator[None]:
    """Skip counting operations in runs of this process: it takes seconds, and tests do not use the figures."""
    with without_counting():
        yield
