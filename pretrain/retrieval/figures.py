"""What ranks say together: recalls, the median and the mean rank, of one direction or of both.

Legend: Q queries of this rank, n all ranks' queries that have a rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows
from trichord.pretrain.retrieval.ranks import COSINE, Among, ranks_among
from trichord.pretrain.retrieval.scores import SCALE, DualSoftmax, QueryBank, Scoring
from trichord.pretrain.retrieval.side import MISSING, Side
from trichord.pretrain.retrieval.tiles import MEMORY_BYTES

RECALLS = (1, 5, 10)
MEDIAN, MEAN, QUERIES = "median rank", "mean rank", "queries"


@torch.no_grad()
def rank_figures(ranks_Q: Tensor) -> dict[str, float]:
    """Give R@1, R@5 and R@10 in shares of 1, the median and the mean rank, and of how many queries, over all ranks."""
    gathered_N = gather_unequal_rows(ranks_Q)
    sorted_n = gathered_N[~gathered_N.isnan()].sort().values
    count = len(sorted_n)
    if not count:
        raise UserError("retrieval: no query has a target of its own; are both sides' clips numbered alike?")
    middle = (float(sorted_n[(count - 1) // 2]) + float(sorted_n[count // 2])) / 2
    shares = {f"R@{k}": float((sorted_n <= k).double().mean()) for k in RECALLS}
    return {**shares, MEDIAN: middle, MEAN: float(sorted_n.mean()), QUERIES: float(count)}


@torch.no_grad()
def measure(
    sides: Mapping[str, Side],
    *,
    dual_softmax: float | None = SCALE,
    banks: Mapping[str, Tensor] | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, dict[str, float]]:
    """Measure two sides both ways and give figures by what was measured, such as "text to video".

    The second side has one row for each clip, the first has any number. Where several are found for a video, figures
    among clips come beside those among rows. Names tell what corrected for hubs: the dual softmax, if it has a scale,
    and the bank of unit rows of each side's kind that `banks` has, of queries that are not of the test.
    """
    (one, several), (other, single) = sides.items()
    several.check(one)
    single.check(other)
    gathered = {one: several.gathered(), other: single.gathered()}
    _refuse_repeated(other, gathered[other].clips_n)
    is_plural = bool((gathered[one].clips_n.diff() == 0).any())
    found: dict[str, dict[str, float]] = {}
    for asks, gives in ((one, other), (other, one)):
        scorings: list[Scoring] = [COSINE]
        scorings += [DualSoftmax(dual_softmax)] if dual_softmax is not None else []
        scorings += [QueryBank(banks[asks])] if banks and asks in banks else []
        ways: tuple[Among, ...] = ("rows", "clips") if is_plural and gives == one else ("rows",)
        for scoring in scorings:
            for among in ways:
                ranks_Q = ranks_among(gathered[gives], sides[asks], scoring, among, memory_bytes)
                notes = (f"{asks} to {gives}", scoring.name, "best of each clip" if among == "clips" else "")
                found[", ".join(note for note in notes if note)] = rank_figures(ranks_Q)
    return found


def _refuse_repeated(name: str, clips_N: Tensor) -> None:
    """Stop where a clip comes twice, for it would be asked twice; numbers come in order."""
    again_n = clips_N[1:][clips_N.diff() == 0].unique()
    if len(again_n):
        raise UserError(
            f"retrieval: {len(again_n):,} clips, such as clip {int(again_n[0])}, have several rows of {name}, expected "
            "one: each would be asked. Where a sampler repeats clips to fill ranks, give the repeated ones the clip "
            f"{MISSING}."
        )
