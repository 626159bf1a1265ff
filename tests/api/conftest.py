"""Small trained runs, a shard set and an index, for all tests of the Python API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune import small_head
from tests.finetune.jobs import without_counting
from tests.finetune.page.stage import make_runs
from tests.pretrain.engine import small_run
from trichord.pretrain.engine import run as engine_run


@pytest.fixture(scope="session")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs of a head, a captioner, video and text, and SVT, with shards and an index."""
    top = tmp_path_factory.mktemp("api")
    make_runs(top)
    small_head.write_shards(top / "labelled", 8)
    with without_counting():
        engine_run.pretrain(small_run.small_config(top / "texts", steps=3, checkpoints__every_steps=3), top / "svt")
    return top
