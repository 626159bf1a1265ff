"""How like its references a caption is: BLEU-1 to 4, ROUGE-1, 2 and L, CIDEr-D.

BLEU (Papineni et al. 2002, equations 2 and 3) is of the whole set, against the reference of the closest length; ROUGE-L
(Lin 2004) takes the best precision and the best recall of the references, recall weighed by beta = 1.2; CIDEr-D
(Vedantam et al. 2015, equation 4) weighs n-grams by how few clips' references have them. These equal pycocoevalcap's,
ROUGE-1 and 2 those of rouge-score (the F of the best reference), which tests hold; here they also give what each clip
adds, so that an interval can be drawn. Legend: N clips, R drawn sets of clips, n lengths of n-grams.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trichord.finetune.bootstrap import Weights

Words = tuple[str, ...]
Counts = Mapping[Words, int]
Figures = NDArray[np.float64]

LONGEST_NGRAM = 4
TOKENS = "lower case, punctuation left out"
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_BETA = 1.2  # of ROUGE-L
_SIGMA = 6.0  # of CIDEr-D's penalty on lengths that differ
_SMALL, _TINY = 1e-9, 1e-15  # against empty sums; no n-gram right gives almost nothing rather than nothing


def words(caption: str) -> Words:
    """Cut a caption into what is compared."""
    return tuple(_WORD.findall(caption.lower()))


def ngrams(said: Words) -> Counter[Words]:
    """Count runs of up to four words."""
    return Counter(said[at : at + n] for n in range(1, LONGEST_NGRAM + 1) for at in range(len(said) - n + 1))


@dataclass(frozen=True)
class Judged:
    """What each clip adds to the figures of a set."""

    bleu_N: Figures  # N x 10: right n-grams of each length, all of them, words, words of the closest reference
    means_N: dict[str, Figures]  # of figures that are means over clips; NaN where a clip has no say

    def figures(self, weights_RN: Weights) -> dict[str, Figures]:
        """Give each figure for R sets in which clips stand so many times."""
        return _bleu(weights_RN @ self.bleu_N) | {name: _mean(weights_RN, each) for name, each in self.means_N.items()}


class References:
    """The references of all clips, counted once."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.words = [[words(caption) for caption in captions] for captions in references]
        self.counts = [[ngrams(said) for said in clip] for clip in self.words]
        self._most = [_most(clip) for clip in self.counts]
        clips_with = Counter(ngram for most in self._most for ngram in most)
        # Of what no reference says, it is as if one did.
        self._everywhere = math.log(len(references))
        self._rarity = {ngram: self._everywhere - math.log(count) for ngram, count in clips_with.items()}
        self._vectors = [[self._vector(counts) for counts in clip] for clip in self.counts]

    def __len__(self) -> int:
        return len(self.words)

    def judge(self, captions: Sequence[str]) -> Judged:
        """Compare a caption with the references of each clip."""
        said = [words(caption) for caption in captions]
        counted = [ngrams(each) for each in said]
        rows = range(len(self))
        means = {
            "ROUGE-1": [max(_rouge_n(counted[row], each, 1) for each in self.counts[row]) for row in rows],
            "ROUGE-2": [max(_rouge_n(counted[row], each, 2) for each in self.counts[row]) for row in rows],
            "ROUGE-L": [_rouge_l(said[row], self.words[row]) for row in rows],
            "CIDEr-D": [self._cider(said[row], counted[row], row) for row in rows],
        }
        return Judged(self.bleu_rows(captions), {name: np.array(each) for name, each in means.items()})

    def bleu_rows(self, captions: Sequence[str]) -> Figures:
        """Give what each clip adds to BLEU."""
        rows = np.zeros((len(self), 2 * LONGEST_NGRAM + 2))
        for row, caption in enumerate(captions):
            said, most = words(caption), self._most[row]
            for ngram, count in ngrams(said).items():
                rows[row, len(ngram) - 1] += min(count, most.get(ngram, 0))
            lengths = [max(0, len(said) - n) for n in range(LONGEST_NGRAM)]
            closest = min((abs(len(each) - len(said)), len(each)) for each in self.words[row])[1]
            rows[row, LONGEST_NGRAM:] = [*lengths, len(said), closest]
        return rows

    def _vector(self, counts: Counts) -> tuple[dict[Words, float], Figures]:
        """Weigh n-grams by how rare they are; give the weights and the length of the vector of each n."""
        weights = {ngram: count * self._rarity.get(ngram, self._everywhere) for ngram, count in counts.items()}
        squares = np.zeros(LONGEST_NGRAM)
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, np.sqrt(squares)

    def _cider(self, said: Words, counts: Counts, row: int) -> float:
        own, own_length_n = self._vector(counts)
        total = 0.0
        for other, (their, their_length_n) in zip(self.words[row], self._vectors[row], strict=True):
            products_n = np.zeros(LONGEST_NGRAM)
            for ngram, weight in own.items():
                there = their.get(ngram, 0.0)
                products_n[len(ngram) - 1] += min(weight, there) * there
            norms_n = own_length_n * their_length_n
            cosines_n = np.divide(products_n, norms_n, out=np.zeros(LONGEST_NGRAM), where=norms_n > 0)
            # The field's code takes the number of pairs of words for the length; it is one less for both.
            apart = max(len(said) - 1, 0) - max(len(other) - 1, 0)
            total += float(cosines_n.mean()) * math.exp(-(apart**2) / (2 * _SIGMA**2))
        return 10 * total / len(self.words[row])


def _mean(weights_RN: Weights, values_N: Figures) -> Figures:
    """Give the weighed mean of those that have a say, NaN where none has."""
    counts_N = ~np.isnan(values_N)
    totals_R = weights_RN @ counts_N
    means_R: Figures = np.full(len(totals_R), np.nan)
    np.divide(weights_RN @ np.where(counts_N, values_N, 0.0), totals_R, out=means_R, where=totals_R > 0)
    return means_R


def _most(clip: Sequence[Counts]) -> dict[Words, int]:
    """Say how often an n-gram stands in the reference that has it most often."""
    most: dict[Words, int] = {}
    for counts in clip:
        for ngram, count in counts.items():
            most[ngram] = max(most.get(ngram, 0), count)
    return most


def _bleu(totals_R: Figures) -> dict[str, Figures]:
    right, all_ = totals_R[:, :LONGEST_NGRAM], totals_R[:, LONGEST_NGRAM : 2 * LONGEST_NGRAM]
    products = np.cumprod((right + _TINY) / (all_ + _SMALL), axis=1)
    share = (totals_R[:, -2] + _TINY) / (totals_R[:, -1] + _SMALL)
    brevity = np.exp(1 - 1 / np.minimum(share, 1.0))
    figures = np.asarray(products ** (1 / np.arange(1, LONGEST_NGRAM + 1)) * brevity[:, None], dtype=np.float64)
    return {f"BLEU-{n}": figures[:, n - 1] for n in range(1, LONGEST_NGRAM + 1)}


def _rouge_n(own: Counts, other: Counts, n: int) -> float:
    ours = {ngram: count for ngram, count in own.items() if len(ngram) == n}
    theirs = sum(count for ngram, count in other.items() if len(ngram) == n)
    shared = sum(min(count, other.get(ngram, 0)) for ngram, count in ours.items())
    return 2 * shared / (sum(ours.values()) + theirs) if shared else 0.0


def _rouge_l(own: Words, others: Sequence[Words]) -> float:
    longest = [_common(own, other) for other in others]
    precision = max(length / max(len(own), 1) for length in longest)
    recall = max(length / max(len(other), 1) for length, other in zip(longest, others, strict=True))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if precision else 0.0


def _common(one: Words, other: Words) -> int:
    """Give the length of the longest subsequence that both have."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        above_left = 0
        for at, their in enumerate(other, start=1):
            above = lengths[at]
            lengths[at] = above_left + 1 if word == their else max(above, lengths[at - 1])
            above_left = above
    return lengths[-1]
