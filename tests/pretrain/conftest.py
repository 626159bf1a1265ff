"""Ours is imported before transformers is, so that transformers can be imported beside a CPU build of torch."""

import shards  # noqa: F401
