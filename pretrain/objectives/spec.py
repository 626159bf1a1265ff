"""Recipe settings common to all objectives; importable without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trichord.core.registry import load
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.flips import FlipRule
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import ViewsSpec

if TYPE_CHECKING:
    from trichord.pretrain.objectives.base import Objective


class ObjectiveSpec(BaseModel, ABC):
    """What the engine, the launcher and the commands know of an objective before it is built.

    A subclass adds its `kind` and its own fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    flips: FlipRule = FlipRule()
    """Classes and words of captions whose meaning depends on left and right, which restrict mirroring."""
    normalisation: Normalisation = Normalisation()
    """Mean and standard deviation by which pixels are normalised."""

    builds: ClassVar[str]  # "module:function" that builds the objective from this spec and the run's config
    begins: ClassVar[str] = (
        "trichord.pretrain.weights.load:load_initial_weights"  # sets the initial weights of a new objective
    )
    reads_text: ClassVar[bool] = False  # whether it uses a text_backbone
    fixed: ClassVar[tuple[str, ...]] = ()  # further settings that cannot change when a run is resumed

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of the networks in a checkpoint, the one to export first."""

    @abstractmethod
    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain."""

    def encoded_views(self) -> tuple[ViewsSpec, ...]:
        """Return the specs of all views that the backbone must accept."""
        return (self.sample_spec().views,)

    def complaints(self, run: Any) -> Iterator[str]:
        """Yield a message for each part of the run's config that is incompatible with this objective."""
        yield from ()

    def build(self, run: Any) -> Objective:
        """Build the objective and its backbones from a run's config; torch's generator draws the initial weights."""
        built: Objective = load(self.builds)(self, run)
        return built

    def begin(self, run: Any, objective: Objective) -> None:
        """Initialise a new objective, on all ranks; a resumed one is loaded from its checkpoint instead."""
        load(self.begins)(run, objective)
