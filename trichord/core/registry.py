"""Registries of specs that a setting selects by its `kind`, built-in ones and those of plug-ins."""

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
    """Objects by name, each imported on access.

    Built-in objects are listed in `places`, as ``name: "module:object"``. An installed package adds its own as entry
    points of the group, without a change here::

        [project.entry-points."trichord.backbones"]
        my_network = "my_package.network:MyNetworkSpec"
    """

    def __init__(self, group: str, places: Mapping[str, str]) -> None:
        self.group = f"trichord.{group}"
        self._own = places

    @functools.cached_property
    def _places(self) -> dict[str, str]:
        """The built-in places and those of plug-ins; found on first use, where errors become messages."""
        places = dict(self._own)
        for each in _entry_points():
            if each.group == self.group and places.setdefault(each.name, each.value) != each.value:
                raise UserError(f"plug-in {each.value}: the name {each.name!r} is taken by {places[each.name]}")
        return places

    def __getitem__(self, name: str) -> S:
        place = self._places[name]
        try:
            found: S = load(place)
        except (ImportError, AttributeError) as error:
            if name in self._own:
                raise
            raise UserError(
                f"plug-in {name} = {place} of {self.group} cannot be loaded: {error}. Repair the package that declares "
                "this entry point, or uninstall it"
            ) from error
        return found

    def check(self, name: str) -> str:
        """Return a known name unchanged, and raise ValueError for others; for pydantic's AfterValidator."""
        if name not in self._places:
            raise ValueError(f"expected one of {', '.join(self._places)}")
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load(place: str) -> Any:
    """Import and return the object at ``"module:object"``."""
    module, _, name = place.partition(":")
    return attrgetter(name)(import_module(module))


def one_of(registry: Registry[type[BaseModel]]) -> Any:
    """Return the type of a field that holds any of the registered specs, discriminated by `kind`."""
    from pydantic import Field

    return Annotated[Union[tuple(registry.values())], Field(discriminator="kind")]  # noqa: UP007, known only at run time


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Return the entry points of plug-ins, cached because scanning all installed packages takes about 0.01 s."""
    found = (each for installed in distributions() for each in installed.entry_points)
    return tuple(dict.fromkeys(each for each in found if each.group.startswith("trichord.")))
