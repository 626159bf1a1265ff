"""Similarity of captions to their references: BLEU-1 to 4, ROUGE-1, 2 and L, CIDEr-D and METEOR.

BLEU (Papineni et al. 2002, equations 2 and 3) is of the whole set, against the reference of the closest length; ROUGE-L
(Lin 2004) takes the best precision and the best recall of the references, recall weighted by beta = 1.2; CIDEr-D
(Vedantam et al. 2015, equation 4) weights n-grams by how few clips' references have them. These equal pycocoevalcap's,
ROUGE-1 and 2 those of rouge-score (the F of the best reference), which tests verify. In contrast to these libraries,
each clip's contribution is available too, from which intervals are computed. METEOR (Denkowski and Lavie 2014) is
computed by its authors' program where that can run.
Legend: N clips, R resampled sets of clips, n lengths of n-grams.
"""

from __future__ import annotations

import math
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import UserError
from trichord.finetune.evaluation.bootstrap import Weights

Words = tuple[str, ...]
Counts = Mapping[Words, int]
Figures = NDArray[np.float64]

LONGEST_NGRAM = 4
TOKENS = "lower case, punctuation left out"
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_BETA = 1.2  # of ROUGE-L
_SIGMA = 6.0  # of CIDEr-D's penalty on length differences
_SMALL, _TINY = 1e-9, 1e-15  # avoid division by zero and a score of exactly 0 without any right n-gram


def words(caption: str) -> Words:
    """Return the words of a caption that are compared."""
    return tuple(_WORD.findall(caption.lower()))


def ngrams(text: Words) -> Counter[Words]:
    """Count the n-grams of up to four words."""
    return Counter(text[at : at + n] for n in range(1, LONGEST_NGRAM + 1) for at in range(len(text) - n + 1))


@dataclass(frozen=True)
class ClipScores:
    """The contribution of each clip to the metrics of a set."""

    bleu_N: Figures  # N x 10: right n-grams by length, all n-grams by length, words, words of the closest reference
    means_N: dict[str, Figures]  # for metrics that are means over clips; NaN where a clip does not count

    def figures(self, weights_RN: Weights) -> dict[str, Figures]:
        """Return each metric for R sets; `weights_RN` counts how often each clip occurs in each set."""
        return _bleu(weights_RN @ self.bleu_N) | {name: _mean(weights_RN, each) for name, each in self.means_N.items()}


class References:
    """The references of all clips, with their n-gram counts computed once."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.words = [[words(caption) for caption in captions] for captions in references]
        self.counts = [[ngrams(text) for text in clip] for clip in self.words]
        self._most = [_most(clip) for clip in self.counts]
        clips_with = Counter(ngram for most in self._most for ngram in most)
        # An n-gram in no reference counts as if it were in one.
        self._everywhere = math.log(len(references))
        self._rarity = {ngram: self._everywhere - math.log(count) for ngram, count in clips_with.items()}
        self._vectors = [[self._vector(counts) for counts in clip] for clip in self.counts]

    def __len__(self) -> int:
        return len(self.words)

    def score(self, captions: Sequence[str]) -> ClipScores:
        """Compare the caption of each clip with the clip's references."""
        texts = [words(caption) for caption in captions]
        counted = [ngrams(each) for each in texts]
        rows = range(len(self))
        means = {
            "ROUGE-1": [max(_rouge_n(counted[row], each, 1) for each in self.counts[row]) for row in rows],
            "ROUGE-2": [max(_rouge_n(counted[row], each, 2) for each in self.counts[row]) for row in rows],
            "ROUGE-L": [_rouge_l(texts[row], self.words[row]) for row in rows],
            "CIDEr-D": [self._cider(texts[row], counted[row], row) for row in rows],
        }
        return ClipScores(self.bleu_rows(captions), {name: np.array(each) for name, each in means.items()})

    def bleu_rows(self, captions: Sequence[str]) -> Figures:
        """Return the contribution of each clip to BLEU."""
        rows = np.zeros((len(self), 2 * LONGEST_NGRAM + 2))
        for row, caption in enumerate(captions):
            text, most = words(caption), self._most[row]
            for ngram, count in ngrams(text).items():
                rows[row, len(ngram) - 1] += min(count, most.get(ngram, 0))
            lengths = [max(0, len(text) - n) for n in range(LONGEST_NGRAM)]
            closest = min((abs(len(each) - len(text)), len(each)) for each in self.words[row])[1]
            rows[row, LONGEST_NGRAM:] = [*lengths, len(text), closest]
        return rows

    def _vector(self, counts: Counts) -> tuple[dict[Words, float], Figures]:
        """Weight n-grams by rarity; return the weights and the norm of the vector of each n."""
        weights = {ngram: count * self._rarity.get(ngram, self._everywhere) for ngram, count in counts.items()}
        squares = np.zeros(LONGEST_NGRAM)
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, np.sqrt(squares)

    def _cider(self, text: Words, counts: Counts, row: int) -> float:
        own, own_length_n = self._vector(counts)
        total = 0.0
        for other, (their, their_length_n) in zip(self.words[row], self._vectors[row], strict=True):
            products_n = np.zeros(LONGEST_NGRAM)
            for ngram, weight in own.items():
                there = their.get(ngram, 0.0)
                products_n[len(ngram) - 1] += min(weight, there) * there
            norms_n = own_length_n * their_length_n
            cosines_n = np.divide(products_n, norms_n, out=np.zeros(LONGEST_NGRAM), where=norms_n > 0)
            # The reference implementation uses the number of bigrams as length, which is one less for both.
            apart = max(len(text) - 1, 0) - max(len(other) - 1, 0)
            total += float(cosines_n.mean()) * math.exp(-(apart**2) / (2 * _SIGMA**2))
        return 10 * total / len(self.words[row])


def _mean(weights_RN: Weights, values_N: Figures) -> Figures:
    """Return the weighted mean of the values that are not NaN, NaN where there are none."""
    counts_N = ~np.isnan(values_N)
    totals_R = weights_RN @ counts_N
    means_R: Figures = np.full(len(totals_R), np.nan)
    np.divide(weights_RN @ np.where(counts_N, values_N, 0.0), totals_R, out=means_R, where=totals_R > 0)
    return means_R


def _most(clip: Sequence[Counts]) -> dict[Words, int]:
    """Return for each n-gram its count in the reference that contains it most often."""
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
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        above_left = 0
        for at, their in enumerate(other, start=1):
            above = lengths[at]
            lengths[at] = above_left + 1 if word == their else max(above, lengths[at - 1])
            above_left = above
    return lengths[-1]


METEOR_LIBRARY = "pycocoevalcap, METEOR 1.5"
METEOR_FOLDER = sysconfig.get_path("purelib")


def check_meteor() -> None:
    """Raise UserError if METEOR cannot run on this machine."""
    if find_spec("pycocoevalcap") is None:
        raise UserError(
            "objective.meteor=true needs pycocoevalcap, which contains METEOR and is not installed: pip install "
            "'trichord[meteor]'. No other metric needs it: objective.meteor=false"
        )
    if shutil.which("java") is None:
        raise UserError(
            "objective.meteor=true needs java, because METEOR is a Java program, and java was not found on this "
            "machine. No other metric needs it: objective.meteor=false"
        )


def meteor_reads_its_path() -> bool:
    """Return whether METEOR's loader can read its data from the folder it is installed in."""
    return METEOR_FOLDER.isascii() and " " not in METEOR_FOLDER


def meteor(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """Return METEOR of each set of captions, on the same words that the other metrics compare.

    Raise UserError if the program ends without a result.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    expected = {row: [" ".join(words(each)) for each in clip] for row, clip in enumerate(references)}
    candidates = [{row: [" ".join(words(caption))] for row, caption in enumerate(captions)} for captions in sets]
    try:
        return [float(program.compute_score(expected, each)[0]) for each in candidates]
    except (OSError, ValueError) as error:  # its pipe is closed, or its answer is not a number
        program.meteor_p.kill()
        with suppress(OSError):  # input it never read
            program.meteor_p.stdin.close()
        lines = program.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        path = "" if meteor_reads_its_path() else f" It cannot read its data from a path like {METEOR_FOLDER}."
        raise UserError(
            f"METEOR's Java program failed: {lines[0] if lines else 'it printed no error'}.{path} No other metric "
            "needs it: objective.meteor=false"
        ) from error
    finally:
        if program.lock.locked():  # otherwise its destructor would wait for the lock forever
            program.lock.release()
