"""Caption metrics equal those of common libraries; factors are recognised in every synthetic caption."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import submitit  # noqa: F401  (first imported in a test, it closes what absl of rouge_score logs to: pytest's own)
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer

from trichord.core.errors import UserError
from trichord.finetune.evaluation.bootstrap import once
from trichord.finetune.tasks.captioning.evaluation import CaptionMetrics, accuracy, best_constant, measure, named
from trichord.finetune.tasks.captioning.scores import References, check_meteor, words
from trichord.shards.synthetic import captions as captions_of_synthetic
from trichord.shards.synthetic import describe_clip

Texts = list[str]


def drawn(seed: int, clips: int = 40) -> tuple[Texts, list[Texts]]:
    """Draw captions of few words, so that n-grams repeat and figures tie; some are empty, some are correct."""
    rng = random.Random(seed)
    vocabulary = ["a", "b", "c", "d", "e", "f"]

    def say(shortest: int) -> str:
        return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(shortest, 9)))

    captions = [say(0) for _ in range(clips)]
    references = [[say(1) for _ in range(rng.randint(1, 4))] for _ in range(clips)]
    captions[1], captions[2], captions[3], captions[5] = references[1][0], references[2][-1], "", captions[4]
    return captions, references


def measured(captions: Texts, references: list[Texts], seed: int = 0, of_synthetic: bool = False) -> CaptionMetrics:
    return measure(captions, references, seed, of_synthetic, with_meteor=False)


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_the_libraries(seed: int) -> None:
    captions, references = drawn(seed)
    scored = References(references).score(captions)
    found = {name: figure[0] for name, figure in scored.figures(once(len(captions))).items()}
    wanted, candidates = dict(enumerate(references)), {row: [caption] for row, caption in enumerate(captions)}
    bleu, _ = Bleu().compute_score(wanted, candidates, verbose=0)
    assert [found[f"BLEU-{n}"] for n in range(1, 5)] == pytest.approx(bleu, abs=1e-9)
    for name, library in (("ROUGE-L", Rouge()), ("CIDEr-D", Cider())):
        total, each = library.compute_score(wanted, candidates)
        assert found[name] == pytest.approx(total, abs=1e-9)
        assert scored.means_N[name] == pytest.approx(each, abs=1e-9)
    scorer = RougeScorer(["rouge1", "rouge2"])
    for n in (1, 2):
        own = [scorer.score_multi(wanted[row], captions[row])[f"rouge{n}"].fmeasure for row in wanted]
        assert scored.means_N[f"ROUGE-{n}"] == pytest.approx(own, abs=1e-9)


def test_weights_equal_repeated_clips() -> None:
    captions, references = drawn(7, clips=12)
    times = [0, 1, 2, 3, 0, 1, 1, 2, 0, 4, 1, 1]
    rows = [row for row, count in enumerate(times) for _ in range(count)]
    scored = References(references).score(captions)
    again = References([references[row] for row in rows]).score([captions[row] for row in rows])
    found, expected = scored.figures(np.array([times])), again.figures(once(len(rows)))
    for name in set(found) - {"CIDEr-D"}:  # the rarity of n-grams is that of the whole set
        assert found[name][0] == pytest.approx(expected[name][0]), name


def test_captions_are_compared_as_words() -> None:
    assert words("A man's dog, 2 meters; über_alles!") == ("a", "man's", "dog", "2", "meters", "über", "alles")


def test_intervals_contain_the_figure_and_narrow_with_more_clips() -> None:
    spans = []
    for clips in (20, 160):
        captions, references = drawn(1, clips)
        rows = {row["metric"]: row for row in measured(captions, references, seed=3).rows}
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values() if row["low"] is not None)
        spans.append(rows["ROUGE-L"]["high"] - rows["ROUGE-L"]["low"])
    assert spans[1] < spans[0] / 1.8
    again = measured(*drawn(1, 20), seed=3).rows
    assert again == measured(*drawn(1, 20), seed=3).rows


def test_constant_caption_is_the_best_of_the_references() -> None:
    captions, references = drawn(2)
    known = References(references)

    def bleu4(caption: str) -> float:
        every = [caption] * len(references)
        return float(known.score(every).figures(once(len(every)))["BLEU-4"][0])

    best = best_constant(known, references)
    assert bleu4(best) == max(bleu4(caption) for clip in references for caption in clip)
    found = measured(captions, references)
    rows = {row["metric"]: row for row in found.rows}
    assert rows["BLEU-4"]["one caption"] == pytest.approx(bleu4(best)) and any(repr(best) in n for n in found.notes)
    assert rows["distinct captions"]["value"] == len({words(each) for each in captions}) / len(captions)
    assert measured(captions[:1] * 40, references).metrics["distinct captions"] == 1 / 40


def test_every_synthetic_caption_names_its_factors() -> None:
    for number in range(60):
        plan = describe_clip(4, number)
        for caption in captions_of_synthetic(plan, 4):
            assert named(caption) == {
                "colour": {event.thing.colour for event in plan.events},
                "shape": {event.thing.shape for event in plan.events},
                "action": {event.action for event in plan.events},
            }, caption


def test_factor_is_correct_if_exactly_its_values_are_named() -> None:
    references = [["a red star grows", "the star, swelling, is red"], ["a red star grows"], ["nothing happens"]]
    found = accuracy(["red star that swells", "a red ring pulses", "a red star grows"], references)
    assert {name: each.tolist()[:2] for name, each in found.items()} == {
        "right colour": [1, 1],
        "right shape": [1, 0],
        "right action": [1, 0],
        "right all three": [1, 0],
    }
    assert all(np.isnan(each[2]) for each in found.values())
    rows = measured(["a red star grows"] * 3, references, of_synthetic=True).metrics
    assert rows["right all three"] == 1 and "right all three" not in measured(["a"] * 3, references).metrics


def test_unavailable_meteor_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="METEOR is a Java program, and java was not found on this machine"):
        check_meteor()
    assert any("METEOR is left out" in note for note in measured(*drawn(0)).notes)
