"""Recipes: inheritance, the origin of each value, and YAML without surprises."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from trichord.core.errors import UserError
from trichord.core.yaml_subset import read_yaml, write_yaml
from trichord.pretrain.commands import SHOW
from trichord.pretrain.config_tree import overlay
from trichord.pretrain.recipe import Resolved, load_recipe, to_yaml
from trichord.pretrain.recipe_file import list_recipes

FIRST = """\
# The first one.
steps: 100
data: {batch_size: 16, sources: [a, b]}
backbone: {kind: timesformer}
objective: {kind: svt, teacher_momentum: {kind: cosine, start: 0.9, end: 1}}
optimiser: {learning_rate: {kind: cosine, start: 1e-3, end: 1e-5, warmup_steps: 5}, weight_decay: 0.1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text("# Second.\nbase: first.yaml\noptimiser: {learning_rate: {start: 2e-3}}\n")
    return tmp_path


def resolve(folder: Path, *overrides: str) -> Resolved:
    return load_recipe(folder / "second.yaml", overrides)


def test_each_value_has_its_origin(folder: Path) -> None:
    resolved = resolve(folder, "engine.zero_stage=1", "optimiser.betas.1=0.95")
    config, origins = resolved.config, resolved.origins
    rate = config.optimiser.learning_rate
    assert (rate.at(5, 100), rate.at(99, 100)) == (2e-3, 1e-5)
    assert (config.engine.zero_stage, config.optimiser.betas) == (1, (0.9, 0.95))
    assert {name: origins[name] for name in origins if origins[name] != "default"} == {
        "steps": "recipe first",
        "data.sources.0.root": "recipe first",
        "data.sources.1.root": "recipe first",
        "data.batch_size": "recipe first",
        "backbone.kind": "recipe first",
        "objective.kind": "recipe first",
        "objective.teacher_momentum.kind": "recipe first",
        "objective.teacher_momentum.start": "recipe first",
        "objective.teacher_momentum.end": "recipe first",
        "optimiser.learning_rate.kind": "recipe first",
        "optimiser.learning_rate.start": "recipe second",
        "optimiser.learning_rate.end": "recipe first",
        "optimiser.learning_rate.warmup_steps": "recipe first",
        "optimiser.weight_decay": "recipe first",
        "optimiser.betas": "command line",
        "engine.zero_stage": "command line",
    }


def test_another_kind_clears_the_fields_of_the_old_one(folder: Path) -> None:
    typed = ("optimiser.learning_rate.start=3", "optimiser.learning_rate.kind=linear", "optimiser.learning_rate.end=1")
    resolved = resolve(folder, *typed)
    assert resolved.config.optimiser.learning_rate.at(0, 100) == 3.0  # the warm-up was cleared with the cosine
    assert resolved.origins["optimiser.learning_rate.warmup_steps"] == "default"
    assert resolved.origins["optimiser.learning_rate.start"] == "command line"


@pytest.mark.parametrize(
    ("typed", "roots", "weights"),
    [
        (["data.sources=x"], ["x"], [1]),
        (["data.sources=[x, y]", "data.sources.1.weight=3"], ["x", "y"], [1, 3]),
        (["data.sources=[{root: x, weight: 2}]"], ["x"], [2]),
        (["data.sources.0.weight=2"], ["a", "b"], [2, 1]),
        (["data.sources.2=c"], ["a", "b", "c"], [1, 1, 1]),
        (["data.sources=pipe:cat sets/{name}"], ["pipe:cat sets/{name}"], [1]),
        (["data.sources=https://example.org/set"], ["https://example.org/set"], [1]),
    ],
)
def test_sources_can_be_set_in_short_form_and_by_index(
    folder: Path, typed: list[str], roots: list[str], weights: list[float]
) -> None:
    sources = resolve(folder, *typed).config.data.sources
    assert ([each.root for each in sources], [each.weight for each in sources]) == (roots, weights)


def test_defaults_of_a_part_stay_when_one_field_of_it_is_given(folder: Path) -> None:
    typed = (
        "objective.global_view.grey_probability=0",
        "objective.teacher_temperature.warmup_steps=10",
        "engine.deepspeed.zero_optimization.overlap_comm=true",
    )
    config = resolve(folder, *typed).config
    assert config.objective.global_view.grey_probability == 0
    assert config.objective.global_view.crop.size == 224
    assert [config.objective.teacher_temperature.at(step, 100) for step in (0, 10)] == [0, 0.04]
    assert config.engine.deepspeed == {"zero_optimization": {"overlap_comm": True}}


def test_a_written_config_is_a_recipe_for_the_same(folder: Path) -> None:
    config = resolve(folder, "init_from.path=weights.pth", "objective.flips.swap_labels=[[1, 2]]", "seed=3").config
    (folder / "written.yaml").write_text(to_yaml(config))
    again = load_recipe(folder / "written.yaml")
    assert again.config == config
    assert set(again.origins.values()) == {"recipe written"}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["steps"], "found 'steps', expected a setting such as steps=1000"),
        (["a..b=1"], "found 'a..b=1', expected a setting"),
        (["steps=[1"], "steps=[1, line 1, column 3: "),
        (["data.sources.7=c"], "there is no element 7: the first is 0, and the length is 2"),
        (["optim.lrr=1", "steps=-1"], "Found 2 errors in recipe "),
        (["optim.lrr=1"], "unknown key 'optim.lrr', nearest 'optimiser.learning_rate'"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(folder: Path, typed: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(folder, *typed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nsteps: 2\n", "line 2, column 1: 'steps' is a duplicate key"),
        ("1: 2\n", "line 1, column 1: a key must be a name"),
        ("- steps\n", "holds list, expected keys and values"),
        ("", "holds nothing, expected keys and values"),
        ("steps: !!python/name:os.system\n", "the tag !!python/name:os.system is not supported"),
        ("base: 3\n", "base is 3, expected the name of a recipe"),
        ("base: svt_papr\n", "no recipe or file is called 'svt_papr'. Did you mean 'svt_paper'?"),
        ("base: bad.yaml\n", "recipes are based on one another in a cycle: bad -> bad"),
        ("steps: 5\n", "data is missing: it has no default. Set data=..."),
    ],
)
def test_mistakes_in_a_recipe_are_explained(folder: Path, text: str, message: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe(folder / "bad.yaml")


def test_longer_cycle_is_found(folder: Path) -> None:
    (folder / "a.yaml").write_text("base: b.yaml\n")
    (folder / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match="a -> b -> a"):
        load_recipe(folder / "a.yaml")


def test_yaml_is_read_without_surprises() -> None:
    text = "[1e-4, 1E5, 1_000, 1., .5, -3, 010, 0x1f, yes, no, 12:30, 2024-01-01, ~, null, true, '1', .inf]"
    expected = [1e-4, 1e5, 1000, 1.0, 0.5, -3, "010", "0x1f", "yes", "no", "12:30", "2024-01-01", None, None, True, "1"]
    assert read_yaml(text, "here") == [*expected, float("inf")]


def test_yaml_survives_a_round_trip() -> None:
    values: dict[str, Any] = {
        "numbers": [1e-4, 1e-07, 2.5e10, 1e300, 10, -0.5],
        "texts": ["1e-4", "no", "12:30", "010", "null", "", "true", "~", "1_000", ".5", "x: y #z", "2024-01-01"],
        "parts": [{"a": None, "b": [True]}, {}],
        "nothing": [],
    }
    assert read_yaml(write_yaml(values), "here") == values


def test_overlaying_does_not_modify_its_arguments() -> None:
    below = {"a": {"kind": "x", "b": [1, {"c": 2}]}}
    assert overlay(below, {"a": {"b": {"1": {"c": 3}}}}) == {"a": {"kind": "x", "b": [1, {"c": 3}]}}
    assert overlay(below, {"a": {"kind": "y"}}) == {"a": {"kind": "y"}}
    assert below == {"a": {"kind": "x", "b": [1, {"c": 2}]}}


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid_and_documented(name: str) -> None:
    learns_classes = name.startswith(("xclip_", "transfer_"))  # which come from the shards otherwise
    named = ["objective.classes.names=[one, other]"] if learns_classes else []
    config = load_recipe(name, ["data.sources=shards", "init_from=null", *named]).config
    assert config.steps > 1
    assert list_recipes()[name].read_text().startswith("# ")


def test_settings_of_the_paper_and_of_the_released_code() -> None:
    paper = load_recipe("svt_paper", ["data.sources=s", "init_from.path=dino.pth"]).config
    released = load_recipe("svt_released", ["data.sources=s"]).config
    for config in (paper, released):
        rate = [config.optimiser.learning_rate_at(step, config.steps, 32) for step in (config.steps // 4, config.steps)]
        assert rate[-1] == pytest.approx(1e-6)
        assert (config.objective.prototypes, config.backbone.dim, config.data.batch_size) == (65536, 768, 32)
    assert paper.optimiser.learning_rate_at(5 * 7500, paper.steps, 32) == pytest.approx(6.25e-5)
    assert released.optimiser.learning_rate_at(10 * 7500, released.steps, 32) == pytest.approx(6.25e-5)
    assert (paper.steps, released.steps) == (20 * 240_000 // 32, 100 * 240_000 // 32)
    assert paper.objective.window.global_frames == (8, 16)
    assert released.objective.window.global_frames == (8, 8)
    assert paper.optimiser.weight_decay.at(paper.steps, paper.steps) == 0.1
    assert released.optimiser.weight_decay.at(released.steps, released.steps) == 0.4
    assert released.init_from is None


def test_paper_recipe_requires_initial_weights() -> None:
    with pytest.raises(UserError, match=re.escape("init_from.path=..., or omit it: init_from=null")):
        load_recipe("svt_paper", ["data.sources=s"])


def shown(capsys: pytest.CaptureFixture[str], recipe: str | None, *settings: str, as_json: bool = True) -> Any:
    assert SHOW.run(Namespace(recipe=recipe, settings=list(settings), json=as_json)) == 0
    text = capsys.readouterr().out
    return json.loads(text)["rows"] if as_json else text


def test_show_lists_recipes_and_every_value_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["recipe"] for row in shown(capsys, None)] == list(list_recipes())
    rows = {row["setting"]: (row["value"], row["from"]) for row in shown(capsys, "svt_released", "seed=4")}
    assert rows["seed"] == (4, "command line")
    assert rows["steps"] == (750000, "recipe svt_released")
    assert rows["backbone.dim"] == (768, "recipe svt_paper")
    assert rows["optimiser.eps"] == (1e-8, "default")
    assert rows["data.sources.0.root"] == ("SHARDS", "to be given")
    rows = {row["setting"]: (row["value"], row["from"]) for row in shown(capsys, "svt_paper", "data.sources=mine")}
    assert rows["data.sources.0.root"] == ("mine", "command line")
    assert rows["init_from.path"] == ("WEIGHTS", "to be given")


def test_show_prints_values_as_in_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "svt_paper", as_json=False)
    for line in (
        r"optimiser.learning_rate.end +8e-06 +recipe svt_paper",
        r"objective.norm_last_layer +true +recipe svt_paper",
        r"data.cache_dir +null +default",
    ):
        assert re.search(line, text)
