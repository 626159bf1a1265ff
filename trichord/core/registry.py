"""Kinds of a thing by name: the specs that a setting may choose from by its `kind`, ours and those of plug-ins."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union

from trichord.core.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

S = TypeVar("S")


class Registry(Mapping[str, S], Generic[S]):
    """Objects by name, each imported when it is asked for.

    Ours stand in `places`, as ``name: "module:object"``. An installed package adds its own as entry points of the
    group, which need no line here::

        [project.entry-points."trichord.backbones"]
        my_network = "my_package.network:MyNetworkSpec"
    """

    def __init__(self, group: str, places: Mapping[str, str]) -> None:
        self.group = f"trichord.{group}"
        self._places = dict(places)
        for each in _entry_points():
            if each.group != self.group:
                continue
            if self._places.setdefault(each.name, each.value) != each.value:
                raise UserError(f"the plug-in {each.value} is called {each.name!r}, as {self._places[each.name]} is")

    def __getitem__(self, name: str) -> S:
        found: S = load(self._places[name])
        return found

    def check(self, name: str) -> str:
        """Return a name that is known, for pydantic's AfterValidator; raise ValueError for another."""
        if name not in self._places:
            raise ValueError(f"expected one of {', '.join(self._places)}")
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load(place: str) -> Any:
    """Import what stands at ``"module:object"``."""
    module, _, name = place.partition(":")
    return attrgetter(name)(import_module(module))


def one_of(registry: Registry[type[BaseModel]]) -> Any:
    """Return the type of a field that holds any of the registered specs, told apart by `kind`."""
    from pydantic import Field

    return Annotated[Union[tuple(registry.values())], Field(discriminator="kind")]  # noqa: UP007, they are known only now


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Return those of plug-ins; looking through all that is installed takes a hundredth of a second."""
    found = (each for installed in distributions() for each in installed.entry_points)
    return tuple(dict.fromkeys(each for each in found if each.group.startswith("trichord.")))
