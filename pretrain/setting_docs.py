"""The settings of recipes by dotted name, with type, default and documentation; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel

from trichord.core.field_docs import default_of, default_words, either, field_docs, selector_of, summary, type_words
from trichord.pretrain.config_tree import classes_in

ELEMENT = "N"  # stands in a name for the number of an element of a list
Choices = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Setting:
    """A setting as one model declares it, where the recipe makes these choices of a selector, such as a `kind`."""

    name: str
    model: type[BaseModel]
    key: str
    default: Any  # where it is set, which may differ from that of the model alone
    choices: Choices
    command: str  # that takes the recipe

    @property
    def models(self) -> list[type[BaseModel]]:
        """The models that it may hold."""
        return classes_in(self.model.model_fields[self.key].annotation)

    @property
    def kinds(self) -> dict[str, str]:
        """What it may select, with a sentence on each."""
        return {_kind(model): summary(model) for model in self.models if selector_of(model)}

    @property
    def facts(self) -> dict[str, Any]:
        """Its type, default and documentation in words, and the settings or kinds in it."""
        facts: dict[str, Any] = {
            "meaning": field_docs(self.model).get(self.key, ""),
            "type": type_words(self.model.model_fields[self.key], _kind),
            "default": default_words(self.default),
        }
        if self.kinds:
            facts["kinds"] = self.kinds
        elif self.models:
            facts["settings"] = ", ".join(self.models[0].model_fields)
        return facts


def settings_of(model: type[BaseModel], command: str) -> Iterator[Setting]:
    """Yield all settings of a config, those of all kinds; a selector itself is part of the setting above it."""
    yield from _settings(model, None, "", (), command)


def explanations(settings: Sequence[Setting], known: Iterable[Setting]) -> list[dict[str, Any]]:
    """Return the different facts of settings of one name, with the recipes that each applies to if not all."""
    everything = list(known)
    found = []
    for members in _grouped(settings, lambda each: {**each.facts, "default": None}):
        defaults = sorted(_grouped(members, lambda each: each.facts["default"]), key=len)
        words = [each[0].facts["default"] for each in defaults]
        if len(words) > 1:
            places = [_where(each, members) or _where(each, everything) for each in defaults[:-1]]
            words[:-1] = [f"{word} for {place}" for word, place in zip(words, places, strict=False)]
            words[-1] = f"otherwise {words[-1]}"
        where = _where(members, everything)
        place = {"applies to": where} if where else {}
        found.append({"setting": members[0].name, **members[0].facts, "default": "; ".join(words), **place})
    return found


def _grouped(settings: Iterable[Setting], facts_of: Callable[[Setting], Any]) -> list[list[Setting]]:
    """Return groups of settings with equal facts, in the order of their first members."""
    groups: list[tuple[Any, list[Setting]]] = []
    for each in settings:
        facts = facts_of(each)
        members = next((members for other, members in groups if other == facts), None)
        if members is None:
            groups.append((facts, [each]))
        else:
            members.append(each)
    return [members for _, members in groups]


def _settings(model: type[BaseModel], defaults: Any, above: str, choices: Choices, command: str) -> Iterator[Setting]:
    selector = selector_of(model)
    for key, field in model.model_fields.items():
        if key == selector:
            continue
        default = getattr(defaults, key) if isinstance(defaults, model) else default_of(field)
        setting = Setting(f"{above}{key}", model, key, default, choices, command)
        yield setting
        place = f"{setting.name}.{ELEMENT}" if get_origin(field.annotation) is tuple else setting.name
        for inner in setting.models:
            chosen = ((f"{place}.{selector_of(inner)}", _kind(inner)),) if len(setting.models) > 1 else ()
            yield from _settings(inner, default, f"{place}.", (*choices, *chosen), command)


def _kind(model: type[BaseModel]) -> str:
    """Return what selects a model; one that nothing selects is a group of settings."""
    selector = selector_of(model)
    return str(model.model_fields[selector].default) if selector else "settings"


def _where(members: Sequence[Setting], everything: Sequence[Setting]) -> str:
    """Return the choices that lead to settings of one name, without those that leave none out."""
    words = []
    for selector in dict.fromkeys(selector for each in members for selector, _ in each.choices):
        values = _values(selector, members)
        if set(values) != set(_values(selector, everything)):
            words.append(f"{selector}={either(values)}")
    commands = {each.command for each in members}
    if not words and commands != {each.command for each in everything}:
        words.append(f"recipes of trichord {' and '.join(sorted(commands))}")
    return ", ".join(words)


def _values(selector: str, settings: Iterable[Setting]) -> list[str]:
    return list(dict.fromkeys(value for each in settings for name, value in each.choices if name == selector))
