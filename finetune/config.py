"""Everything that decides a run with a head: a run of the engine whose objective is a task; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from trichord.core.errors import UserError
from trichord.finetune.captions.spec import CaptionSpec
from trichord.finetune.specs import ClassificationSpec
from trichord.pretrain.backbones.specs import BackboneSpec
from trichord.pretrain.config import RunConfig
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.viewing.view_specs import ViewsSpec

if TYPE_CHECKING:
    from trichord.pretrain.objective import Objective
    from trichord.shards.reading.batch import SampleTransform


TaskSpec = Annotated[ClassificationSpec | CaptionSpec, Field(discriminator="kind")]
TASKS = ("classification", "captions")


class FinetuneConfig(RunConfig):
    """A head on one or two backbones; whatever else a run is, it is as in pretraining."""

    settled: ClassVar[tuple[str, ...]] = (
        "objective.inputs",
        "objective.classes",
        "objective.head",
        "objective.frozen",
        "objective.trained",
        "objective.memory",
        *(f"objective.language.{name}" for name in ("dim", "depth", "heads", "positions", "vocabulary")),
        "audio_backbone",
    )

    backbone: BackboneSpec | None  # type: ignore[assignment]  # null where a head only listens
    objective: TaskSpec  # type: ignore[assignment]
    pretrained: str | None = None  # what the first weights learnt from, for tables; known where they are a run's
    # A folder for the tokens of frozen backbones: computed when a run begins, and read instead of the videos.
    features: Path | None = None

    def build_objective(self) -> Objective:
        """Build backbones and head with fresh weights drawn from torch's generator."""
        if isinstance(self.objective, CaptionSpec):
            from trichord.finetune.captions.captioner import build_captioner

            return build_captioner(self)
        from trichord.finetune.classify import build_classification

        return build_classification(self)

    def begin(self, objective: Objective) -> None:
        """Give fresh backbones the weights of a run or a file, and a task what it has to know of the data."""
        from trichord.finetune.beginning import begin

        begin(self, objective)

    def stream(self) -> StreamConfig:
        """Give what is read: the set, or what is kept of it."""
        found = super().stream()
        if self.features is None:
            return found
        kept = [
            SourceConfig(root=str(self.features_of(number)), weight=source.weight)
            for number, source in enumerate(found.sources)
        ]
        return found.model_copy(update={"sources": tuple(kept)})

    def features_of(self, number: int) -> Path:
        """Say where the features of one of the sets are kept."""
        assert self.features is not None
        return self.features / str(number)

    def transform(self) -> SampleTransform:
        """Make examples of videos, or take what is kept of them."""
        if self.features is None:
            return super().transform()
        from trichord.finetune.features import read_features

        return read_features

    def views_seen(self) -> tuple[ViewsSpec, ...]:
        """Give those of training and tests."""
        return (self.objective.sample_spec().views, self.objective.test_spec().views)

    def check_classes(self) -> None:
        """Raise UserError where the shards were made with other classes."""
        if not isinstance(self.objective, ClassificationSpec):
            return
        for source, opened in zip(self.data.sources, self.data.open_sources(), strict=True):
            check_classes(self.objective, opened.manifest.classes, source.root)

    def _view_complaints(self) -> Iterator[str]:
        spec = self.objective
        for sense, backbone, name in (
            ("video", self.backbone, "backbone"),
            ("audio", self.audio_backbone, "audio_backbone"),
        ):
            if sense in spec.inputs and backbone is None:
                yield f"objective.inputs name {sense}: give {name}.kind, or a run that has one"
            if sense not in spec.inputs and backbone is not None:
                yield f"{name} is given, and objective.inputs do not name {sense}"
        if self.backbone is not None:
            yield from super()._view_complaints()
        if self.features is not None:
            yield from self._feature_complaints()
        if isinstance(spec, ClassificationSpec) and spec.mix is not None and self.data.batch_size < 2 * self.data.lanes:
            yield (
                "objective.mix blends samples of one lane, and a lane gives one a step: set data.batch_size to at "
                f"least {2 * self.data.lanes} or data.lanes to at most {self.data.batch_size // 2}"
            )

    def _feature_complaints(self) -> Iterator[str]:
        spec = self.objective
        if isinstance(spec, CaptionSpec) and spec.trained:
            yield "features are of a backbone that stays as it is: leave objective.trained out, or features"
        elif not spec.frozen:
            yield "features are of a backbone that stays as it is: set objective.frozen=true, or leave features out"
        elif spec.left_to_chance:
            drawn = ", ".join(f"objective.{name}" for name in spec.left_to_chance)
            yield f"features are computed once, and {drawn} would draw anew at every step: set what draws nothing"


def check_classes(spec: ClassificationSpec, found: tuple[str, ...], where: str) -> None:
    """Raise UserError where a set's classes are not those of a head; a set that names none is believed."""
    if not found or found == spec.classes:
        return
    if len(found) != spec.count:
        raise UserError(
            f"{where} has {len(found)} classes and objective.classes {spec.count}. Leave objective.classes out, and "
            "they are taken from the shards; a head that was trained for other classes cannot be tested on these"
        )
    if isinstance(spec.classes, int):
        return
    number = next(n for n, (own, other) in enumerate(zip(spec.classes, found, strict=True)) if own != other)
    raise UserError(
        f"{where} calls class {number} {found[number]!r}, and objective.classes {spec.classes[number]!r}: the same "
        "numbers mean other classes. Build the shards with one list of classes"
    )


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """Make the config of what a checkpoint or a run folder holds of one, whichever floor's run it was."""
    kind = (values.get("objective") or {}).get("kind")
    return (FinetuneConfig if kind in TASKS else RunConfig).model_validate(values)
