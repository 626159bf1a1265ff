"""Results for every clip of shard sets, each read once on any number of ranks, in the order of the sets.

Legend: N clips, B clips of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.core.console import track
from trichord.pretrain.collectives import gather_rows
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import StreamConfig
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec

_PLACE, _VALID = "place in the sets", "can be used"


@dataclass(frozen=True)
class GatheredRows:
    """Named rows of all usable clips, the same on all ranks, and the number of unusable clips."""

    rows: dict[str, NDArray[Any]]
    bad: int


def gather_each_once(
    config: StreamConfig, spec: SampleSpec, world: World, rows_of: Callable[[Batch], Mapping[str, Tensor]]
) -> GatheredRows:
    """Read every clip once and gather the output of `rows_of` for each batch: named tensors of B rows.

    All ranks take part. Rows of invalid clips are dropped, so they may hold any values.
    """
    prefetcher = Prefetcher(evaluation_batches(config, ClipTransform(spec), world.rank, world.size), world.device)
    found: dict[str, list[Tensor]] = {}
    try:
        for batch in track(prefetcher, "batches of clips"):
            about = {_PLACE: torch.tensor(batch.position), _VALID: batch.valid.to(torch.uint8)}
            for name, rows in {**about, **rows_of(batch)}.items():
                found.setdefault(name, []).append(rows.cpu())
    finally:
        prefetcher.close()
    gathered = {name: gather_rows(torch.cat(parts)).numpy() for name, parts in found.items()}
    return _in_order(sum(sum(source.counts) for source in config.open_sources()), gathered)


def _in_order(total: int, rows: dict[str, NDArray[Any]]) -> GatheredRows:
    """Sort the rows of all ranks into the order of the sets and drop padding; each clip must occur exactly once."""
    places_N = rows.pop(_PLACE)
    is_valid_N = rows.pop(_VALID) > 0
    order_N = np.argsort(places_N, kind="stable")
    order_N = order_N[places_N[order_N] >= 0]
    if not np.array_equal(places_N[order_N], np.arange(total)):
        raise RuntimeError(
            f"expected {total} clips once each, found {len(order_N)} reads of {len(np.unique(places_N[order_N]))} clips"
        )
    used_N = order_N[is_valid_N[order_N]]
    return GatheredRows({name: each[used_N] for name, each in rows.items()}, bad=len(order_N) - len(used_N))
