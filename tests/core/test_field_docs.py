"""Documentation of settings: the strings below fields, and descriptions of types and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, PositiveInt

from trichord.core.field_docs import (
    default_of,
    default_words,
    field_docs,
    paragraphs,
    selector_of,
    summary,
    type_words,
    value_words,
)
from trichord.core.registry import Registry

SHAPES: Registry[object] = Registry("shapes", {"square": "a:b", "round": "a:c"})


class Base(BaseModel):
    size: PositiveInt = 3
    """Number of pixels."""
    rate: float = Field(default=0.5, ge=0, lt=1)
    """Share of what is
    dropped."""


class Line(Base):
    """A line.

    It has two
    ends.
    """

    kind: Literal["line"] = "line"
    size: PositiveInt = 5
    rate: float = Field(default=0.1, ge=0)
    """Share of what is kept."""
    note: str = "a # in a string"  # a comment
    "A string in other quotes."
    bare: int = 0
    """Documented."""

    def method(self) -> None:
        """Not a field."""


class Dot(BaseModel):
    kind: Literal["dot"] = "dot"
    colour: tuple[int, int, int] = (1, 2, 3)


class Drawing(BaseModel):
    whole: int
    share: float | None = Field(default=None, gt=0, le=1)
    sizes: tuple[PositiveInt, ...] = Field(default=(), min_length=1)
    pairs: tuple[tuple[int, int], ...] = ()
    names: frozenset[str] = frozenset()
    mode: Literal["fast", "slow", 3] = "fast"
    shape: Annotated[str, AfterValidator(SHAPES.check)] = "square"
    options: dict[str, Any] = {}
    either: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)] = 1
    part: Annotated[Line | Dot, Field(discriminator="kind")] | None = None
    parts: tuple[Dot, ...] = ()
    folder: Path = Path("here")
    is_on: bool = False


def test_string_below_a_field_documents_it_in_subclasses_too() -> None:
    assert field_docs(Base) == {"size": "Number of pixels.", "rate": "Share of what is dropped."}
    assert field_docs(Line) == {
        "size": "Number of pixels.",
        "rate": "Share of what is kept.",
        "note": "A string in other quotes.",
        "bare": "Documented.",
    }
    assert field_docs(Dot) == {}


def test_model_is_documented_by_its_own_docstring() -> None:
    assert paragraphs(Line) == ["A line.", "It has two ends."]
    assert (summary(Line), summary(Dot)) == ("A line.", "")
    assert (selector_of(Line), selector_of(Base)) == ("kind", None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("whole", "whole number"),
        ("share", "number > 0 and ≤ 1, or null"),
        ("sizes", "list of whole numbers ≥ 1, not empty"),
        ("pairs", "list of lists of 2 whole numbers"),
        ("names", "list of texts"),
        ("mode", "<fast>, <slow> or <3>"),
        ("shape", "<square> or <round>"),
        ("options", "mapping from text to any value"),
        ("either", "whole number ≥ 1 or list of texts, not empty"),
        ("part", "Line or Dot, or null"),
        ("parts", "list of Dot"),
        ("folder", "path"),
        ("is_on", "true or false"),
    ],
)
def test_type_is_described_in_words(name: str, words: str) -> None:
    found = type_words(Drawing.model_fields[name], lambda model: model.__name__, lambda value: f"<{value}>")
    assert found == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e-8, "1e-08"),
        (4 / 3, "1.33333"),
        (True, "true"),
        (None, "null"),
        ("resnet50", "resnet50"),
        ("two words", '"two words"'),
        ("{}", '"{}"'),
        (Path("a/b"), "a/b"),
        ((1, (2.0, "x")), "[1, [2.0, x]]"),
        (Line(bare=4), "{kind: line, bare: 4}"),
        (Drawing(whole=1, part=Dot()), "{whole: 1, part: {kind: dot}}"),
    ],
)
def test_value_is_written_as_in_a_recipe(value: object, words: str) -> None:
    assert value_words(value) == words


def test_default_may_be_missing_or_that_of_a_model() -> None:
    assert default_words(default_of(Drawing.model_fields["whole"])) == "required"
    assert default_words(Base()) == "its defaults"
    assert default_words(Base(size=4)) == "{size: 4}"
