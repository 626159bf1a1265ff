"""Health checks on logged figures: warnings, with advice, when a run collapses or waits for data.

Collapse has two forms, each with a figure. Spread: the standard deviation of normalised embeddings (Chen and He 2021,
SimSiam, section 4.1), here times sqrt(D): 1 for uniformly distributed directions, 0 if all embeddings are equal. Rank:
the effective rank of the centred embeddings (Roy and Vetterli 2007, equation 2), exp of the entropy of the singular
values, normalised to sum 1.

Legend: N rows of all ranks, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trichord.pretrain.collectives import gather_rows, world_size
from trichord.pretrain.objectives.base import HealthRule

_HEALTH = "health/"
_MOST_ROWS = 1024  # over all ranks; more rows change neither figure much
_NO_SPREAD = 1e-6
_LEAST_ROWS = 8  # fewer rows span few directions whatever the network does

EMBEDDING_RULES = (
    HealthRule(
        figure="embedding_std/*",
        side="below",
        limit=0.05,
        from_step=100,
        advice="The network maps every clip to nearly the same embedding (collapse). Try a slower teacher (momentum "
        "closer to 1), a faster centre, a lower teacher temperature, or a lower learning rate with a longer warm-up.",
    ),
    HealthRule(
        figure="embedding_rank/*",
        side="below",
        limit=2.0,
        from_step=100,
        advice="Embeddings vary along hardly more than one direction (dimensional collapse). Try stronger or more "
        "varied augmentation, a larger batch, more weight decay, or a lower learning rate.",
    ),
)


@torch.no_grad()
def embedding_figures(embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """Return spread and rank of embeddings BD over all ranks; a collective with equally many rows on each rank."""
    figures = {}
    for name in sorted(embeddings):
        own_BD = embeddings[name].detach()[: max(1, _MOST_ROWS // world_size())]
        unit_ND = normalize(gather_rows(own_BD.float()).double(), dim=1)
        if len(unit_ND) < _LEAST_ROWS:
            continue
        rows, features = unit_ND.shape
        centred_ND = unit_ND - unit_ND.mean(dim=0)
        spread = float(centred_ND.pow(2).mean(dim=0).sqrt().mean()) * math.sqrt(features)
        figures[f"embedding_std/{name}"] = spread
        if spread > _NO_SPREAD:  # otherwise, or if an embedding is NaN, the rank is undefined
            rank = _effective_rank(centred_ND)
            figures[f"embedding_rank/{name}"] = rank
            figures[f"embedding_rank_share/{name}"] = rank / min(rows - 1, features)  # centring removes one direction
    return figures


def _effective_rank(centred_ND: Tensor) -> float:
    """Return exp(entropy) of the singular values' shares."""
    # The squared singular values are the eigenvalues of the smaller Gram matrix, which are much faster to compute.
    gram = centred_ND @ centred_ND.T if len(centred_ND) < centred_ND.shape[1] else centred_ND.T @ centred_ND
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


class Watch:
    """Checks the figures of each log step against rules; a rule warns once, and again only after recovery.

    A rule's `figure` is a name as in the objective, or a pattern; in a row, names of the objective begin with health/.
    """

    def __init__(self, rules: Sequence[HealthRule]) -> None:
        self._rules = rules
        self._lines_broken: dict[tuple[HealthRule, str], int] = {}

    def check(self, step: int, figures: Mapping[str, object]) -> list[str]:
        """Return the warnings that are due; a missing figure or NaN changes no rule's state."""
        warnings = []
        for rule in self._rules:
            for name, value in figures.items():
                if step < rule.from_step or not fnmatchcase(name.removeprefix(_HEALTH), rule.figure):
                    continue
                if not isinstance(value, int | float) or math.isnan(value):
                    continue
                is_broken = value > rule.limit if rule.side == "above" else value < rule.limit
                lines = self._lines_broken.get((rule, name), 0) + 1 if is_broken else 0
                self._lines_broken[rule, name] = lines
                if lines == rule.patience:
                    warnings.append(
                        f"step {step}: {name} is {value:.4g}, {rule.side} {rule.limit:g} for {_log_lines(lines)}. "
                        f"{rule.advice}"
                    )
        return warnings


class LoaderWatch:
    """Reports once when the device waits for the loader, and once when it no longer does. `cores` are this rank's."""

    LIMIT = 0.1
    PATIENCE = 3

    def __init__(self, workers: int, cores: int) -> None:
        self._workers = workers
        self._cores = cores
        self._is_starving = False
        self._shares: list[float] = []  # of consecutive log lines that contradict the last report

    def check(self, step: int, data_wait_share: float | None) -> str | None:
        """Return a report if the state changes with this log line."""
        if data_wait_share is None:
            return None
        if (data_wait_share > self.LIMIT) == self._is_starving:
            self._shares.clear()
            return None
        self._shares.append(data_wait_share)
        if len(self._shares) < self.PATIENCE:
            return None
        share = sum(self._shares) / len(self._shares)
        self._shares.clear()
        self._is_starving = not self._is_starving
        if not self._is_starving:
            return f"step {step}: the loader keeps up again: {100 * share:.0f} % of the time is spent waiting for data."
        return (
            f"step {step}: the loader is too slow: {100 * share:.0f} % of the time is spent waiting for data. "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        measure = "`trichord shards read ROOT --workers N` measures the throughput of reading alone."
        cheaper = "Make clips cheaper to decode (`trichord shards build … --mode encode`) or use smaller views"
        if self._workers < self._cores:
            return (
                f"Raise data.workers ({self._workers} now, {self._cores} cores for this rank). "
                f"{cheaper} if that is not enough. {measure}"
            )
        cores = "the only core" if self._cores == 1 else f"all {self._cores} cores"
        return f"data.workers={self._workers} already uses {cores} of this rank. {cheaper}. {measure}"


def _log_lines(count: int) -> str:
    return "1 log line" if count == 1 else f"{count} log lines in a row"
