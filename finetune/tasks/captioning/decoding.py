"""Decoding of captions: greedy, nucleus sampling, and beam search.

Nucleus sampling follows Holtzman et al. 2020, section 3.1; its draws are a function of the seed and the sample's key.
Beam search returns the best text that W beams reach, by log-probability over a power of its length: the length penalty
of Wu et al. 2016 (equation 14) without its constants, |text|^p. A finished text does not occupy a beam, and the search
ends when no unfinished text can become better than the best finished one, so with as many beams as there are texts it
is exhaustive. The result for a text does not depend on the other texts of its batch.
Legend: B texts, each with its memory, W beams of each, R rows (B, or B W with beams), M tokens of a memory, E features,
V tokens of the vocabulary, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trichord.core.registry import load
from trichord.core.seeds import generator
from trichord.finetune.tasks.captioning.spec import BeamSpec, DecodingSpec, GreedySpec, NucleusSpec
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary


class Decoding(Protocol):
    """Texts that are decoded token by token."""

    def __call__(self, tokens_R: Tensor) -> Tensor:
        """Append a token to each text; return scores_RV of the next token."""

    def follow(self, rows_R: Tensor) -> None:
        """Continue each text from the text of another row with the same memory."""


class GeneratedCaptions(NamedTuple):
    """Captions of a batch, and the log-probability of each, including its end mark."""

    captions: list[str]
    log_probs: list[float]


Pick = Callable[[Tensor, int], Tensor]  # log_probs_BV and the number of the token to tokens_B
Seeds = Sequence[tuple[int, str]]


class DecodingBatch(NamedTuple):
    """A batch to decode: a text of at most `longest` tokens for each memory."""

    begin: Callable[[Tensor], Decoding]
    memory_BME: Tensor
    known: int  # number of tokens in the vocabulary
    mark: int  # the token before and after a text
    longest: int
    seeds: Seeds  # of the sampling


def generate(
    begin: Callable[[Tensor], Decoding],
    memory_BME: Tensor,
    vocabulary: Vocabulary,
    spec: DecodingSpec,
    longest: int,
    seeds: Seeds,
) -> GeneratedCaptions:
    """Generate a caption of at most `longest` tokens for each memory; `seeds` determine what sampling draws."""
    texts = DecodingBatch(begin, memory_BME, len(vocabulary), vocabulary.mark, longest, seeds)
    tokens_BL, log_probs_B = load(spec.decodes)(spec, texts)
    return GeneratedCaptions([vocabulary.read_out(tokens) for tokens in tokens_BL.tolist()], log_probs_B.tolist())


def beam_search(spec: BeamSpec, texts: DecodingBatch) -> tuple[Tensor, Tensor]:
    """Search for the likeliest texts; return tokens_BL and log_probs_B."""
    memory_BME = texts.memory_BME
    growing = texts.begin(memory_BME.repeat_interleave(spec.beams, dim=0))
    advance = _log_probs(growing, texts.known)
    return search(advance, growing.follow, len(memory_BME), spec, texts.mark, texts.longest, memory_BME.device)


def greedy(spec: GreedySpec, texts: DecodingBatch) -> tuple[Tensor, Tensor]:
    """Choose the likeliest token at each step."""
    return _decode(texts, _pick_likeliest)


def nucleus(spec: NucleusSpec, texts: DecodingBatch) -> tuple[Tensor, Tensor]:
    """Sample each token from the likeliest ones."""
    return _decode(texts, _nucleus_pick(spec, texts.seeds, texts.longest, texts.memory_BME.device))


def _log_probs(growing: Decoding, known: int) -> Callable[[Tensor], Tensor]:
    """Return the step with log-probabilities, restricted to the vocabulary; the embedding table may be larger."""

    def advance(tokens_R: Tensor) -> Tensor:
        scores_RV = growing(tokens_R)
        scores_RV[:, known:] = -torch.inf
        return scores_RV.log_softmax(dim=1)

    return advance


def _decode(texts: DecodingBatch, pick: Pick) -> tuple[Tensor, Tensor]:
    """Decode until every text has ended; a text is padded with its end mark."""
    memory_BME, mark, longest = texts.memory_BME, texts.mark, texts.longest
    advance = _log_probs(texts.begin(memory_BME), texts.known)
    batch = len(memory_BME)
    last_B = torch.full((batch,), mark, device=memory_BME.device)
    is_over_B = torch.zeros(batch, dtype=torch.bool, device=memory_BME.device)
    total_B = torch.zeros(batch, dtype=torch.float64, device=memory_BME.device)
    tokens = []
    for place in range(longest):
        log_probs_BV = advance(last_B)
        last_B = torch.where(is_over_B, mark, pick(log_probs_BV, place))
        own_B = log_probs_BV.gather(1, last_B[:, None])[:, 0].double()
        total_B = torch.where(is_over_B, total_B, total_B + own_B)
        is_over_B = is_over_B | (last_B == mark)
        tokens.append(last_B)
        if is_over_B.all():
            break
    return torch.stack(tokens, dim=1), total_B


def _pick_likeliest(log_probs_BV: Tensor, place: int) -> Tensor:
    return log_probs_BV.argmax(dim=1)


def _nucleus_pick(spec: NucleusSpec, seeds: Sequence[tuple[int, str]], longest: int, device: torch.device) -> Pick:
    drawn = [torch.from_numpy(generator(seed, "caption", key).random(longest)) for seed, key in seeds]
    drawn_BL = torch.stack(drawn).to(device)

    def pick(log_probs_BV: Tensor, place: int) -> Tensor:
        probs_BV, order_BV = (log_probs_BV.double() / spec.temperature).softmax(dim=1).sort(dim=1, descending=True)
        below_BV = probs_BV.cumsum(dim=1) - probs_BV
        kept_BV = torch.where(below_BV < spec.top_p, probs_BV, 0.0)
        reached_BV = kept_BV.cumsum(dim=1)
        aim_B1 = drawn_BL[:, place, None] * reached_BV[:, -1:]
        chosen_B1 = (reached_BV <= aim_B1).sum(dim=1, keepdim=True)
        return order_BV.gather(1, chosen_B1.clamp_max(order_BV.shape[1] - 1))[:, 0]

    return pick


def search(
    advance: Callable[[Tensor], Tensor],
    follow: Callable[[Tensor], None],
    batch: int,
    spec: BeamSpec,
    mark: int,
    longest: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return tokens_BL of the best texts, padded with the mark, and their log_probs_B.

    `advance` appends a token to each row and returns log_probs_RV of the next; `follow` continues rows from other rows.
    """
    beams, penalty = spec.beams, spec.length_penalty
    total_BW = torch.full((batch, beams), -torch.inf, dtype=torch.float64, device=device)
    total_BW[:, 0] = 0.0  # all beams would start equal, so only one is active at first
    text_BWL = torch.full((batch, beams, longest), mark, device=device)
    best_BL, best_total_B = text_BWL[:, 0].clone(), total_BW[:, 0].clone()
    best_score_B = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
    first_of_B1 = torch.arange(batch, device=device)[:, None] * beams
    last_BW = text_BWL[:, :, 0]
    for length in range(1, longest + 1):
        reached_BWV = total_BW[:, :, None] + advance(last_BW.flatten()).double().unflatten(0, (batch, beams))
        # A text ends with its mark, or at the maximum length.
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
        # Log-probabilities only decrease and lengths are at most `longest`, so this bounds the score a beam can reach.
        if length == longest or bool((total_BW[:, 0] / longest**penalty <= best_score_B).all()):
            break
        from_BW, last_BW = chosen_BW // reached_BWV.shape[2], chosen_BW % reached_BWV.shape[2]
        text_BWL = _rows(text_BWL, from_BW)
        text_BWL[:, :, length - 1] = last_BW
        follow((first_of_B1 + from_BW).flatten())
    return best_BL, best_total_B


def _rows(text_BWL: Tensor, beams_BK: Tensor) -> Tensor:
    """Return copies of the rows of the given beams."""
    return text_BWL.gather(1, beams_BK[:, :, None].expand(-1, -1, text_BWL.shape[2]))
