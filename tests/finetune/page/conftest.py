"""The page that all tests of this package query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finetune.page.stage import app_of, make_runs, served


@pytest.fixture(scope="session")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs, their shards and an index."""
    top = tmp_path_factory.mktemp("page")
    make_runs(top)
    return top


@pytest.fixture(scope="session")
def page(top: Path) -> Iterator[str]:
    """Return the address of a page with all of them."""
    with served(app_of(top)) as address:
        yield address
