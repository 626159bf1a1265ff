"""What a recipe says of any objective; read without torch."""

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
    """All that the engine, the launcher and the commands know of an objective before it is built.

    An objective adds its `kind` and fields of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    flips: FlipRule = FlipRule()
    normalisation: Normalisation = Normalisation()

    builds: ClassVar[str]  # "module:function", which makes the objective of this spec and the run's config
    begins: ClassVar[str] = "trichord.pretrain.weights.init:begin"  # gives a new objective its initial weights
    reads_text: ClassVar[bool] = False  # whether it takes a text_backbone
    fixed: ClassVar[tuple[str, ...]] = ()  # further settings that a run cannot change when it is resumed

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint by name, first the one to take away."""

    @abstractmethod
    def sample_spec(self) -> SampleSpec:
        """Return what a sample must bring."""

    def views_seen(self) -> tuple[ViewsSpec, ...]:
        """Return all views that the backbone is to take."""
        return (self.sample_spec().views,)

    def complaints(self, run: Any) -> Iterator[str]:
        """Yield what in the rest of a run's config does not go with this objective."""
        yield from ()

    def build(self, run: Any) -> Objective:
        """Build the objective and the backbones of a run's config with initial weights of torch's generator."""
        built: Objective = load(self.builds)(self, run)
        return built

    def begin(self, run: Any, objective: Objective) -> None:
        """Give a new objective what it starts from, on all ranks; a resumed one finds that in its checkpoint."""
        load(self.begins)(run, objective)
