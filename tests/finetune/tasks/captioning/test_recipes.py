"""Recipes of captions: the six variants are one sweep, frames follow the backbone, errors are reported."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.finetune.recipe import load_finetune_recipe
from trichord.finetune.tasks.captioning.spec import CaptionSpec
from trichord.launch.plan import expand

GUIDE = (Path(__file__).resolve().parents[4] / "docs/tasks.md").read_text()
GIVEN = [
    "init_from=null",
    "data.sources=shards/train",
    "backbone.kind=timesformer",
    "backbone.frames=8",
    "backbone.size=224",
]


def loaded(recipe: str, *settings: str) -> CaptionSpec:
    spec = load_finetune_recipe(recipe, [*GIVEN, *settings]).config.objective
    assert isinstance(spec, CaptionSpec)
    return spec


def test_documented_variants_are_a_sweep_of_six() -> None:
    (text,) = re.findall(r"trichord launch (finetune captions_gpt2 .*?--run runs/variants)", GUIDE, re.DOTALL)
    found = []
    for _, words in expand([word for word in shlex.split(text.replace("\\\n", " ")) if not word.startswith("init_")]):
        settings = [word for word in words if re.match(r"objective\.", word)]
        spec = loaded("captions_gpt2", *settings)
        found.append((spec.memory.tokens, spec.memory.mapping, spec.frozen))
        assert spec.language.weights == "gpt2" and spec.language.dim == 768
    ways = [("pooled", "none"), ("all", "none"), ("all", "linear")]
    assert found == [(*way, frozen) for way in ways for frozen in (True, False)]


def test_every_variant_in_the_documented_table_exists() -> None:
    table = GUIDE.partition("| variant | settings |")[2].partition("\n\n")[0]
    for words in re.findall(r"`([^`]*objective\.[^`]*)`", table):
        for _, settings in expand(shlex.split(words)):
            loaded("captions_gpt2", *settings)


def test_frames_follow_the_backbone() -> None:
    spec = loaded("captions", "backbone.frames=16")
    assert {getattr(clips, "frames", None) for clips in (spec.clips, spec.test_clips)} == {16}
    assert spec.sample_spec().caption == "random" and spec.test_spec().caption == "all"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("objective.clips.clips=2", "clips give 2 of a video, and test_clips 1: the language model needs"),
        ("objective.test_clips={kind: sliding, frames: 8, clip_seconds: 1}", "test_clips a number that depends on the"),
        ("objective.test_view.crop={kind: three, size: 224}", "captions use one crop of each clip"),
        ("objective.trained=[time_embed]", "set frozen=true, or trained=[]"),
        ("objective.language.heads=7", "dim to be a multiple of heads, found dim 768 and heads 7"),
        ("objective.language.longest=1024", "longest=1024 plus the start mark exceeds positions=1024"),
        ("objective.decoding.kind=bean", "beam"),
        ("objective.inputs=[audio]", "objective.inputs"),
    ],
)
def test_errors_are_reported(setting: str, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        loaded("captions_gpt2", setting)
