"""Decoding: the same with and without a key cache, in batches and one by one, and beams against all texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.finetune.tasks.captioning.small_captions import small_captioner
from trichord.finetune.tasks.captioning.decoding import GeneratedCaptions, generate, search
from trichord.finetune.tasks.captioning.language import DecoderState, Language
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.finetune.tasks.captioning.spec import BeamSpec, DecodingSpec, GreedySpec, NucleusSpec

WAYS: tuple[DecodingSpec, ...] = (GreedySpec(), BeamSpec(beams=3, length_penalty=0.7), NucleusSpec(top_p=0.8))
MARK, LONGEST = 3, 4


class Uncached:
    """A DecoderState without a cache: every text is computed from its start, each time."""

    def __init__(self, language: Language, memory_RME: Tensor) -> None:
        self._language, self._memory_RME = language, memory_RME
        self._tokens_RL = torch.zeros(len(memory_RME), 0, dtype=torch.int64)

    def __call__(self, tokens_R: Tensor) -> Tensor:
        self._tokens_RL = torch.cat([self._tokens_RL, tokens_R[:, None]], dim=1)
        return self._language(self._tokens_RL, self._memory_RME)[:, -1].float()

    def follow(self, rows_R: Tensor) -> None:
        self._tokens_RL = self._tokens_RL[rows_R]


@pytest.fixture(scope="module")
def model() -> Captioner:
    """Return a captioner of two layers with weights large enough that its texts vary and end.

    In float64, so that float32 scores have the same bits for any number of texts at a time.
    """
    found = small_captioner(objective__language__depth=2)
    torch.manual_seed(3)
    for name, parameter in found.language.named_parameters():
        if name.endswith("weight") and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.35)
    assert found.vocabulary is not None
    with torch.no_grad():  # so that the mark is likely enough
        found.language.gpt2.wte.weight[found.vocabulary.mark] *= 2.5
    return found.double()


def decode(
    model: Captioner, way: DecodingSpec, memory_BME: Tensor, keys: list[str], kind: Any = DecoderState
) -> GeneratedCaptions:
    assert model.vocabulary is not None
    with torch.no_grad():
        return generate(
            lambda memory_RME: kind(model.language, memory_RME),
            memory_BME.double(),
            model.vocabulary,
            way,
            12,
            [(5, key) for key in keys],
        )


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
def test_key_cache_and_other_texts_have_no_effect(model: Captioner, way: DecodingSpec) -> None:
    memory_BME = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0)) * 3
    keys = [f"clip{row}" for row in range(6)]
    together = decode(model, way, memory_BME, keys)
    assert len(set(together.captions)) > 2 and len({len(each) for each in together.captions}) > 1
    anew = decode(model, way, memory_BME, keys, Uncached)
    assert anew.captions == together.captions and anew.log_probs == pytest.approx(together.log_probs, abs=1e-3)
    for row, key in enumerate(keys):
        alone = decode(model, way, memory_BME[row : row + 1], [key])
        assert alone.captions == [together.captions[row]]
        assert alone.log_probs[0] == pytest.approx(together.log_probs[row], abs=1e-3)


def test_sampled_text_depends_on_the_key_alone(model: Captioner) -> None:
    memory_BME = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1)
    keys = ["a", "b", "c", "d", "a", "e", "f", "g"]
    drawn = decode(model, NucleusSpec(top_p=1.0, temperature=2.0), memory_BME, keys).captions
    assert drawn[0] == drawn[4] and len(set(drawn)) > 4
    assert len(set(decode(model, NucleusSpec(top_p=1e-6), memory_BME, keys).captions)) == 1
    assert (
        decode(model, NucleusSpec(top_p=1e-6), memory_BME, keys).captions
        == decode(model, GreedySpec(), memory_BME, keys).captions
    )


def test_samples_follow_the_nucleus_distribution(model: Captioner) -> None:
    assert model.vocabulary is not None
    scores_V = torch.full((len(model.vocabulary),), -math.inf)
    probable = {40: 0.5, 41: 0.3, 42: 0.15, 43: 0.05}
    for token, share in probable.items():
        scores_V[token] = math.log(share)

    class Constant:
        def __call__(self, tokens_R: Tensor) -> Tensor:
            return scores_V.expand(len(tokens_R), -1).clone()

        def follow(self, rows_R: Tensor) -> None: ...

    draws = 3000
    keys = [(0, str(row)) for row in range(draws)]
    generated = generate(
        lambda _: Constant(), torch.zeros(draws, 1, 1), model.vocabulary, NucleusSpec(top_p=0.9), 1, keys
    )
    letters = {model.vocabulary.read_out([token]): share / 0.95 for token, share in probable.items() if token != 43}
    assert set(generated.captions) == set(letters)  # three are needed to reach 0.9
    for letter, share in letters.items():
        assert generated.captions.count(letter) / draws == pytest.approx(share, abs=0.03)


def chain(seed: int, batch: int) -> Callable[[int, tuple[int, ...]], list[float]]:
    """Return log-probabilities of four tokens for every memory and prefix of a text."""
    table: dict[tuple[int, tuple[int, ...]], list[float]] = {}
    generator = torch.Generator().manual_seed(seed)
    for row in range(batch):
        for length in range(LONGEST):
            for text_tokens in itertools.product(range(4), repeat=length):
                table[row, text_tokens] = (torch.randn(4, generator=generator) * 1.5).double().log_softmax(0).tolist()
    return lambda row, text_tokens: table[row, text_tokens]


class Grown:
    """Texts that grow by a table; they start with the mark."""

    def __init__(self, log_probs: Callable[[int, tuple[int, ...]], list[float]], batch: int, beams: int) -> None:
        self._log_probs, self._beams = log_probs, beams
        self._texts: list[tuple[int, ...]] = [()] * (batch * beams)
        self._has_begun = False

    def __call__(self, tokens_R: Tensor) -> Tensor:
        if self._has_begun:
            self._texts = [
                (*text_tokens, token) for text_tokens, token in zip(self._texts, tokens_R.tolist(), strict=True)
            ]
        self._has_begun = True
        return torch.tensor(
            [self._log_probs(row // self._beams, text_tokens) for row, text_tokens in enumerate(self._texts)]
        )

    def follow(self, rows_R: Tensor) -> None:
        assert all(row // self._beams == place // self._beams for place, row in enumerate(rows_R.tolist()))
        self._texts = [self._texts[row] for row in rows_R.tolist()]


def found_by(beams: int, penalty: float, seed: int, batch: int = 3) -> list[tuple[tuple[int, ...], float]]:
    growing = Grown(chain(seed, batch), batch, beams)
    spec = BeamSpec(beams=beams, length_penalty=penalty)
    tokens_BL, log_probs_B = search(growing, growing.follow, batch, spec, MARK, LONGEST, torch.device("cpu"))
    return [
        (tuple(tokens[: tokens.index(MARK) + 1] if MARK in tokens else tokens), log_prob)
        for tokens, log_prob in zip(tokens_BL.tolist(), log_probs_B.tolist(), strict=True)
    ]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_text(penalty: float, seed: int) -> None:
    log_probs = chain(seed, 3)
    for row, (text, total) in enumerate(found_by(64, penalty, seed)):
        best = max(texts(), key=lambda text_tokens: score(log_probs, row, text_tokens) / len(text_tokens) ** penalty)
        assert text == best and total == pytest.approx(score(log_probs, row, best), abs=1e-6)


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_few_beams_equal_a_naive_search(beams: int, penalty: float) -> None:
    for seed in range(4):
        log_probs = chain(seed, 3)
        for row, (text, _) in enumerate(found_by(beams, penalty, seed)):
            alive: list[tuple[int, ...]] = [()]
            ended: list[tuple[int, ...]] = []
            for length in range(1, LONGEST + 1):
                grown = [(*text_tokens, token) for text_tokens in alive for token in range(4)]
                ended += [text_tokens for text_tokens in grown if text_tokens[-1] == MARK or length == LONGEST]
                grown = [text_tokens for text_tokens in grown if text_tokens[-1] != MARK]
                alive = sorted(grown, key=lambda text_tokens: -score(log_probs, row, text_tokens))[:beams]
            assert text == max(
                ended, key=lambda text_tokens: score(log_probs, row, text_tokens) / len(text_tokens) ** penalty
            )


def texts() -> list[tuple[int, ...]]:
    """Return every text: ended by the mark, or of maximum length."""
    found = []
    for length in range(1, LONGEST + 1):
        for text_tokens in itertools.product(range(3), repeat=length - 1):
            found += [(*text_tokens, token) for token in ((MARK,) if length < LONGEST else range(4))]
    return found


def score(log_probs: Callable[[int, tuple[int, ...]], list[float]], row: int, text_tokens: tuple[int, ...]) -> float:
    return sum(log_probs(row, text_tokens[:place])[token] for place, token in enumerate(text_tokens))
