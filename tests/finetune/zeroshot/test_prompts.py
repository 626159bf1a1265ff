"""Sets of prompts equal the published ones, and class names that are written as one word are split."""

from __future__ import annotations

import pytest

from trichord.finetune.zeroshot.prompts import PROMPTS, in_words, templates_of, texts_of


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("bare", 1, ["{}"]),
        (
            "openai_ucf101",
            48,
            [
                "a photo of a person {}.",
                "a example of the person during {}.",
                "a demonstration of the person practicing {}.",
            ],
        ),
        (
            "openai_kinetics700",
            28,
            ["a photo of {}.", "a example of a person {}.", "a demonstration of a person performing {}."],
        ),
        (
            "actionclip",
            16,
            [
                *("{}", "Human action of {}", "{} this is an action", "Look, the human is {}"),
                *("Can you recognize the action of {}?", "Video classification of {}", "Doing a kind of action, {}"),
            ],
        ),
    ],
)
def test_set_has_the_published_number_of_distinct_prompts(name: str, count: int, some: list[str]) -> None:
    assert len(PROMPTS[name]) == len(set(PROMPTS[name])) == count
    assert set(some) <= set(PROMPTS[name])
    assert all(template.count("{}") == 1 for template in PROMPTS[name])


def test_openai_sets_are_in_the_order_of_its_list() -> None:
    assert PROMPTS["openai_ucf101"][3:6] == (
        "a demonstration of a person {}.",
        "a photo of the person {}.",
        "a video of the person {}.",
    )
    assert PROMPTS["openai_kinetics700"][6:8] == ("a photo of a person practicing {}.", "a video of {}.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("apply_eye_makeup", "apply eye makeup"),
        ("Archery", "archery"),
        ("YoYo", "yo yo"),
        ("WatchingTVNews", "watching TV news"),
        ("TV", "TV"),
        ("opening bottle (not wine)", "opening bottle (not wine)"),
        ("Apply  Eye Makeup", "Apply Eye Makeup"),
    ],
)
def test_names_are_split_into_words(name: str, words: str) -> None:
    assert in_words(name) == words


def test_texts_combine_every_prompt_with_every_name() -> None:
    assert texts_of(["PullUps", "a {brace}"], "say {} now") == [["say pull ups now", "say a {brace} now"]]
    assert texts_of(["PullUps"], "photo", "given") == [["a photo of PullUps."]]
    with pytest.raises(ValueError, match="Did you mean 'actionclip'"):
        templates_of("actionclipp")
