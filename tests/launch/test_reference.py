"""Every setting is documented, and docs/configuration.md is up to date with the generator."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from trichord.core.field_docs import field_docs, selector_of, summary
from trichord.launch.reference import OF_COMMANDS, RECIPES, Model, reachable, reference

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"
MODELS = list(dict.fromkeys(model for root in (*RECIPES, *OF_COMMANDS) for model in reachable(root)))
AT_LEAST = 70  # models


def test_all_models_are_collected() -> None:
    names = {model.__name__ for model in MODELS}
    assert len(names) == len(MODELS) > AT_LEAST
    assert {"RunConfig", "ViViTSpec", "AstSpec", "SinkhornTarget", "Cosine", "KaldiFbank", "NucleusSpec"} <= names


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_documented(model: Model) -> None:
    assert summary(model).endswith(".") or summary(model).endswith(":")
    docs = field_docs(model)
    for name in model.model_fields:
        if name == selector_of(model):
            continue
        assert name in docs, f"{model.__name__}.{name} has no docstring below it"
        assert re.match(r"[A-Z`]", docs[name]), f"{model.__name__}.{name}: {docs[name]}"
        assert docs[name].endswith("."), f"{model.__name__}.{name}: {docs[name]}"
        assert not re.search(r"[a-z]\. [A-Z]", docs[name]), f"{model.__name__}.{name} has several sentences"


def test_strings_below_fields_cost_nothing_at_import() -> None:
    """Pydantic would parse the source of each model; every command that reads a recipe would be slower."""
    assert not [model for model in MODELS if model.model_config.get("use_attribute_docstrings")]


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "a setting has changed; run: make reference"


def test_each_model_has_one_heading_and_links_lead_to_headings() -> None:
    page = reference()
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = Counter(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    assert set(anchors.values()) == {1}
    roots = {config.__name__ for config in RECIPES}
    assert {model.__name__ for model in MODELS} - roots <= set(headings)
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert len(links) > AT_LEAST / 2 and links <= set(anchors)


def test_settings_are_nested_below_their_only_parent() -> None:
    section = ""
    places: dict[str, str] = {}
    for line in reference().splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if line.startswith("### "):
            places[line.removeprefix("### ")] = section
    assert places["SourceConfig"] == "data"
    assert places["RoundsSpec"] == places["ClassTexts"] == "objective"  # two targets of one objective use rounds
    assert places["HeadSpec"] == "objective, for fine-tuning"
    assert places["Cosine"] == places["ViewSpec"] == places["CentreCrop"] == "Used in several sections"
