"""Beam search: the best text among those that W beams reach, by log-probability over a power of its length.

The length penalty is that of Wu et al. 2016 (equation 14) without its constants: |text|^p. A text that ends takes no
beam's place, and the search ends when nothing that still grows can become better than the best that has ended; so with
as many beams as there are texts it is the exhaustive search.
Legend: B memories, W beams of each, R = B W rows, V tokens of the vocabulary, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trichord.finetune.tasks.captioning.spec import BeamSpec


def search(
    told: Callable[[Tensor], Tensor],
    follow: Callable[[Tensor], None],
    batch: int,
    spec: BeamSpec,
    mark: int,
    longest: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Give tokens_BL of the best texts, filled up with the mark, and their log_probs_B.

    `told` says a token of each row and gives log_probs_RV of the next; `follow` lets rows go on from other rows.
    """
    beams, penalty = spec.beams, spec.length_penalty
    total_BW = torch.full((batch, beams), -torch.inf, dtype=torch.float64, device=device)
    total_BW[:, 0] = 0.0  # all beams begin alike, so one of them begins alone
    text_BWL = torch.full((batch, beams, longest), mark, device=device)
    best_BL, best_total_B = text_BWL[:, 0].clone(), total_BW[:, 0].clone()
    best_score_B = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
    first_of_B1 = torch.arange(batch, device=device)[:, None] * beams
    last_BW = text_BWL[:, :, 0]
    for length in range(1, longest + 1):
        reached_BWV = total_BW[:, :, None] + told(last_BW.flatten()).double().unflatten(0, (batch, beams))
        # A text ends by its mark, or because it may not become longer.
        ended_BWV = reached_BWV if length == longest else reached_BWV[:, :, mark : mark + 1]
        own_score_B, own_B = (ended_BWV.flatten(1) / length**penalty).max(dim=1)
        is_better_B = own_score_B > best_score_B
        beam_B, token_B = own_B // ended_BWV.shape[2], own_B % ended_BWV.shape[2]
        ending_BL = _rows(text_BWL, beam_B[:, None])[:, 0]
        ending_BL[:, length - 1] = token_B if length == longest else mark
        best_BL = torch.where(is_better_B[:, None], ending_BL, best_BL)
        best_total_B = torch.where(is_better_B, ended_BWV.flatten(1).gather(1, own_B[:, None])[:, 0], best_total_B)
        best_score_B = torch.where(is_better_B, own_score_B, best_score_B)
        reached_BWV[:, :, mark] = -torch.inf
        total_BW, chosen_BW = reached_BWV.flatten(1).topk(beams, dim=1)
        # Log-probabilities only fall, and no text is longer than the longest: more than this no beam can reach.
        if length == longest or bool((total_BW[:, 0] / longest**penalty <= best_score_B).all()):
            break
        from_BW, last_BW = chosen_BW // reached_BWV.shape[2], chosen_BW % reached_BWV.shape[2]
        text_BWL = _rows(text_BWL, from_BW)
        text_BWL[:, :, length - 1] = last_BW
        follow((first_of_B1 + from_BW).flatten())
    return best_BL, best_total_B


def _rows(text_BWL: Tensor, beams_BK: Tensor) -> Tensor:
    """Take rows by their beams' numbers; they are copies."""
    return text_BWL.gather(1, beams_BK[:, :, None].expand(-1, -1, text_BWL.shape[2]))
