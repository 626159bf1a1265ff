"""The video-text learning experiment, with expected values computed by hand, tiny networks and no training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.learning import experiment
from benchmarks.learning import video_text as video_text_learning
from benchmarks.learning.experiment import UNTRAINED, WayResult
from benchmarks.learning.synthetic_clips import FACTORS
from benchmarks.learning.video_text import (
    ALL_WAYS,
    CHANCES,
    CONTRAST,
    DIRECTIONS,
    FORMS,
    GOALS,
    MEAN,
    RECIPE,
    SHUFFLED,
    WAYS,
    CaptionedClips,
    ShuffledCaptions,
    ShuffledCaptionsConfig,
    figures,
    learn,
    run_and_report,
    zero_shot_accuracy,
)
from tests.pretrain.objectives import video_text_stage as stage
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.pretrain.recipe import load_recipe
from trichord.shards.synthetic import COMBINATIONS, caption_of

SMALL = ("backbone.depth=1", "text_backbone.depth=1", "backbone.dim=64", "text_backbone.length=12")


def clips_of(combinations: list[tuple[str, str, str]], held_out: list[bool]) -> CaptionedClips:
    rows = []
    for colour, shape, action in combinations:
        factors = {"colour": colour, "shape": shape, "action": action}
        rows.append([names.index(factors[factor]) for factor, names in FACTORS.items()])
    frames = torch.randint(0, 256, (len(rows), 3, 8, 48, 48), dtype=torch.uint8)
    captions = tuple(f"{caption_of(*combination, 3)} {number}" for number, combination in enumerate(combinations))
    return CaptionedClips(frames, torch.tensor(rows), torch.tensor(held_out), captions)


def test_zero_shot_accuracy_is_by_factor_and_by_held_out_combination() -> None:
    red_star = ("red", "star", "growing")
    test = clips_of([red_star, red_star, red_star, ("blue", "ring", "growing")], [False, False, True, True])
    guesses = [red_star, ("red", "ring", "growing"), ("blue", "star", "moving up"), ("blue", "ring", "growing")]
    cosines_NK = torch.zeros(4, len(COMBINATIONS))
    for row, guess in enumerate(guesses):
        cosines_NK[row, COMBINATIONS.index(guess)] = 1
    assert zero_shot_accuracy(cosines_NK, test) == {
        "seen: shape": 0.5,
        "seen: colour": 1.0,
        "seen: action": 1.0,
        "seen: all three": 0.5,
        "held out: shape": 1.0,
        "held out: colour": 0.5,
        "held out: action": 0.5,
        "held out: all three": 0.5,
    }


def test_forms_are_one_of_the_captions_and_one_of_none() -> None:
    rules = video_text_learning.CAPTION_RULES
    assert [caption_of("red", "star", "growing", number) for number in FORMS.values()] == [
        "a red star grows",
        "we see a red star that grows",
    ]
    assert rules.unsaid_forms == 2 and rules.captions == 5


def test_all_figures_are_computed_and_near_chance_when_untrained() -> None:
    objective = build(load_recipe(RECIPE, ("data.sources=shards", *SMALL)).config)
    generator = torch.Generator().manual_seed(0)
    chosen = [COMBINATIONS[int(number)] for number in torch.randint(len(COMBINATIONS), (12,), generator=generator)]
    found = figures(objective, clips_of(chosen, [number % 2 == 0 for number in range(12)]))
    zero_shot = {f"{part}: {factor}, {form}" for part in ("seen", "held out") for factor in CHANCES for form in FORMS}
    recalls = {f"{way}, {name}" for way in DIRECTIONS for name in ("R@1", "R@5", "R@10", "median rank")}
    assert found.keys() == zero_shot | recalls
    assert found["held out: all three, known form"] < 0.5 and found["text to video, R@1"] < 0.9


def test_control_differs_only_in_taking_the_caption_of_another_clip() -> None:
    changes = {"sound": None, "classes": None, "prompts": False}
    trained, control = stage.build(**changes).eval(), stage.build(**changes).eval()
    control.__class__ = ShuffledCaptions
    batch, other = stage.batch(), stage.batch()
    other = other.replace(text=[*other.text[1:], other.text[0]])
    torch.testing.assert_close(control(batch, 0).loss, trained(other, 0).loss, rtol=0, atol=0)
    config = load_recipe(RECIPE, ("data.sources=shards", *SMALL)).config
    one, two = build(config), build(ShuffledCaptionsConfig.model_validate(config.model_dump()))
    assert type(one) is VideoTextObjective and type(two) is ShuffledCaptions
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_every_seed_is_trained_in_every_way_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[str, RunConfig]] = []

    def note(config: RunConfig, run: Path) -> float:
        run.mkdir(exist_ok=True)
        runs.append((run.name, config))
        return 2.0

    monkeypatch.setattr(experiment, "train", note)
    monkeypatch.setattr(experiment, "_trained", lambda config, run: None)
    monkeypatch.setattr(video_text_learning, "make_shards", lambda out, clips, rules: out / "shards")
    monkeypatch.setattr(video_text_learning, "read_clips", lambda root, config: None)
    monkeypatch.setattr(video_text_learning, "build", lambda config: None)
    monkeypatch.setattr(video_text_learning, "figures", lambda objective, test: {"seen": float(len(runs))})
    for _ in range(2):
        _, results = learn(tmp_path, [0, 1], 100, ("steps=99",))
    assert [name for name, _ in runs] == [f"{way.replace(' ', '_')}_seed_{seed}" for seed in (0, 1) for way in WAYS]
    assert results[1][SHUFFLED].figures == {"seen": 6.0}
    kinds = {name: type(config) for name, config in runs}
    assert kinds["captions_shuffled_seed_0"] is ShuffledCaptionsConfig and kinds["contrast_seed_0"] is RunConfig
    averaged = dict(runs)["frames_averaged_seed_1"].backbone
    assert averaged.kind == "xclip" and not averaged.messages and averaged.integration_depth == 0


def test_tables_and_goals_are_computed_from_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {UNTRAINED: 0.1, CONTRAST: 0.6, MEAN: 0.4, SHUFFLED: 0.1}
    names = [f"{part}: {factor}, {form}" for part in ("seen", "held out") for factor in CHANCES for form in FORMS]
    names += [f"{way}, R@{k}" for way in DIRECTIONS for k in (1, 5, 10)]

    def seed(shift: float) -> dict[str, WayResult]:
        ranks = {f"{way}, median rank": 7.0 for way in DIRECTIONS}
        return {
            way: WayResult({}, {**dict.fromkeys(names, share + shift), **ranks}, 3.0) for way, share in shares.items()
        }

    test = clips_of([COMBINATIONS[0], COMBINATIONS[1]], [True, False])
    monkeypatch.setattr(video_text_learning, "learn", lambda *_: (test, [seed(0.0), seed(0.02)]))
    zero_shot, recalls, goals, seconds = run_and_report(tmp_path, [0, 1], 100, ()).values()
    assert zero_shot[0] == {
        "figure": "seen: shape, known form",
        "chance": "12.5",
        **{way: f"{100 * share + 1:.1f} ± 1.0" for way, share in shares.items()},
    }
    assert [row["figure"] for row in recalls][3] == "text to video, median rank of 2"
    assert len(goals) == len(GOALS) and all(row["met"] for row in goals)
    assert seconds == [{"seed": number, **dict.fromkeys(WAYS, 3)} for number in (0, 1)]
    assert set(json.loads((tmp_path / "results.json").read_bytes())["seeds"][0]) == set(ALL_WAYS)
