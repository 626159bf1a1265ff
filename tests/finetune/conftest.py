"""A run of pretraining that all tests of heads begin with, and starts that count no operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finetune.jobs import without_counting
from tests.pretrain.engine import small_run
from trichord.pretrain.engine import run as engine_run


@pytest.fixture(scope="session")
def svt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run of SVT; its shards, without labels, lie beside it."""
    top = tmp_path_factory.mktemp("pretrained")
    with without_counting():
        engine_run.pretrain(small_run.small_config(small_run.write_shards(top / "plain"), steps=3), top / "svt")
    return top / "svt"


@pytest.fixture(scope="module")
def quick_starts() -> Iterator[None]:
    """Start runs of this process without seconds for figures that a test does not look at."""
    with without_counting():
        yield
