"""Every clip of shard sets once, whatever the number of ranks: what each gives, in the order of the sets.

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
from trichord.pretrain.engine.prefetch import Feeder
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import StreamConfig
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec

_PLACE, _VALID = "place in the sets", "can be used"


@dataclass(frozen=True)
class Gathered:
    """Named rows of all usable clips, the same on all ranks, and how many clips could not be used."""

    rows: dict[str, NDArray[Any]]
    bad: int


def gather_each_once(
    config: StreamConfig, spec: SampleSpec, world: World, rows_of: Callable[[Batch], Mapping[str, Tensor]]
) -> Gathered:
    """Read every clip once and gather what `rows_of` makes of each batch: named tensors of B rows.

    All ranks take part. Rows of clips that are not valid are left out, so they may hold anything.
    """
    feeder = Feeder(evaluation_batches(config, ClipTransform(spec), world.rank, world.size), world.device)
    found: dict[str, list[Tensor]] = {}
    try:
        for batch in track(feeder, "batches of clips"):
            about = {_PLACE: torch.tensor(batch["position"]), _VALID: batch["valid"].to(torch.uint8)}
            for name, rows in {**about, **rows_of(batch)}.items():
                found.setdefault(name, []).append(rows.cpu())
    finally:
        feeder.close()
    gathered = {name: gather_rows(torch.cat(parts)).numpy() for name, parts in found.items()}
    return _in_order(sum(sum(source.counts) for source in config.open_sources()), gathered)


def _in_order(total: int, rows: dict[str, NDArray[Any]]) -> Gathered:
    """Put all ranks' rows into the order of the sets, less padding; each clip must be there once."""
    places_N = rows.pop(_PLACE)
    is_valid_N = rows.pop(_VALID) > 0
    order_N = np.argsort(places_N, kind="stable")
    order_N = order_N[places_N[order_N] >= 0]
    if not np.array_equal(places_N[order_N], np.arange(total)):
        raise RuntimeError(f"of {total} clips {len(np.unique(places_N[order_N]))} were read, {len(order_N)} times")
    used_N = order_N[is_valid_N[order_N]]
    return Gathered({name: each[used_N] for name, each in rows.items()}, bad=len(order_N) - len(used_N))
