"""`trichord show SETTING` explains a setting: what it does, its type, its default, and its value in a recipe."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest

from trichord.core.errors import UserError
from trichord.finetune.recipe import FINETUNING
from trichord.pretrain.recipe import PRETRAINING
from trichord.pretrain.setting_docs import settings_of
from trichord.pretrain.show import show


def explained(capsys: pytest.CaptureFixture[str], *words: str, as_json: bool = True) -> Any:
    first, *others = words
    assert show(Namespace(recipe=first, settings=others, json=as_json), (PRETRAINING, FINETUNING)) == 0
    text = capsys.readouterr().out
    return json.loads(text)["rows"] if as_json else text


def test_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = explained(capsys, "objective.centre_momentum")
    assert row.pop("meaning").startswith("Share of the old centre of the teacher's logits")
    assert row == {
        "setting": "objective.centre_momentum",
        "type": "number ≥ 0 and < 1",
        "default": "0.9",
        "applies to": "objective.kind=svt",
    }


def test_value_in_a_recipe_is_shown_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = explained(capsys, "svt_paper", "backbone.frames", "backbone.frames=16", "engine.zero_stage=2")
    assert (row["value"], row["from"], row["default"]) == ("16", "command line", "8")
    (row,) = explained(capsys, "svt_paper", "objective.kind")
    assert (row["setting"], row["value"], row["from"]) == ("objective.kind", "svt", "recipe svt_paper")
    (row,) = explained(capsys, "svt_paper", "data.sources.0.weight")
    assert (row["setting"], row["value"], row["from"]) == ("data.sources.N.weight", "1.0", "default")
    (row,) = explained(capsys, "svt_paper", "data.sources.N.root", "data.sources=[a, b]")
    assert (row["value"], row["from"]) == ("a", "command line")
    (row,) = explained(capsys, "svt_paper", "objective.teacher_temperature.value")
    assert (row["value"], row["from"]) == ("0.04", "recipe svt_paper")
    (row,) = explained(capsys, "svt_paper", "init_from.path", "init_from=null")
    assert (row["value"], row["from"]) == ("none: init_from is null", "command line")


def test_schedules_and_sections_show_all_of_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = explained(capsys, "svt_paper", "objective.teacher_temperature")
    assert (row["value"], row["from"]) == ("0.04", "recipe svt_paper")
    assert list(row["kinds"]) == ["constant", "linear", "cosine", "steps"]
    (row,) = explained(capsys, "svt_paper", "optimiser")
    assert row["settings"] == "learning_rate, lr_reference_batch, weight_decay, betas, eps, rules"
    assert "recipe svt_paper" in row["from"]


def test_kinds_that_share_a_name_are_explained_together_or_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    common, fusion = explained(capsys, "backbone.frames")
    assert common["default"].startswith("32 for backbone.kind=vivit; 8 for backbone.kind=timesformer, xclip or")
    assert common["default"].endswith("; otherwise 16")
    assert (fusion["default"], fusion["applies to"]) == ("10", "backbone.kind=frame_fusion")
    pretraining, finetuning = explained(capsys, "objective")
    assert pretraining["applies to"] == "recipes of trichord pretrain"
    assert set(finetuning["kinds"]) == {"classification", "captions"}
    (row,) = explained(capsys, "optimiser.eps")
    assert "applies to" not in row


def test_default_depends_on_the_parent(capsys: pytest.CaptureFixture[str]) -> None:
    """A crop requires a size, but the views of some objectives have a default."""
    (row,) = explained(capsys, "objective.view.crop.size")
    assert row["default"] == (
        "224 for objective.kind=av_prototypes or video_text, objective.view.crop.kind=random_resized; "
        "otherwise required"
    )


def test_documentation_is_one_paragraph(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = explained(capsys, "svt_paper", "optimiser.eps", "steps", as_json=False)
    assert text == (
        "optimiser.eps\n"
        "  Small number added to the denominator of AdamW's update,\n"
        "  for numerical stability.\n"
        "  type     number > 0\n"
        "  default  1e-08\n"
        "  value    1e-08\n"
        "  from     default\n"
        "\n"
        "steps\n"
        "  Number of weight updates; the run ends after the last one.\n"
        "  type     whole number ≥ 1\n"
        "  default  required\n"
        "  value    150000\n"
        "  from     recipe svt_paper\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimiser.lr"], "unknown setting 'optimiser.lr', nearest 'optimiser.learning_rate'"),
        (["svt_paper", "objective.teacher_momentun"], "nearest 'objective.teacher_momentum'"),
        (["centre_momentum"], "unknown setting 'centre_momentum', nearest 'objective.centre_momentum'"),
        (["svt_papre"], "no recipe or file is called 'svt_papre'. Did you mean 'svt_paper'?"),
        (["steps", "steps=3"], "steps=3 overrides a recipe, and none is given: trichord show RECIPE steps"),
        (["svt_paper", "objective.cross_weight"], "which applies to objective.kind=av_prototypes"),
    ],
)
def test_errors_suggest_valid_names(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        show(Namespace(recipe=words[0], settings=words[1:], json=False), (PRETRAINING, FINETUNING))
    assert message in str(error.value)


def test_every_setting_of_recipes_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    names = {each.name for set_ in (PRETRAINING, FINETUNING) for each in settings_of(set_.config, set_.command)}
    assert len(names) > 300
    rows = explained(capsys, *sorted(names))
    assert {row["setting"] for row in rows} == names
    assert not [row["setting"] for row in rows if not row["meaning"]]
