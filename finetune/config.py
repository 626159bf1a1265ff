"""Everything that decides a run with a head: a run of the engine whose objective is a task; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trichord.finetune.tasks.registry import TASKS, AnyTask
from trichord.pretrain.backbones.registry import AnyBackbone
from trichord.pretrain.config import RunConfig
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig

if TYPE_CHECKING:
    from trichord.shards.reading.batch import SampleTransform


class FinetuneConfig(RunConfig):
    """A head on one or two backbones; whatever else a run is, it is as in pretraining."""

    backbone: AnyBackbone | None  # type: ignore[assignment]  # null where a head only listens
    objective: AnyTask
    pretrained: str | None = None  # what the first weights learnt from, for tables; known where they are a run's
    # A folder for the tokens of frozen backbones: computed when a run begins, and read instead of the videos.
    features: Path | None = None

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
        from trichord.finetune.feature_reader import read_features

        return read_features

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
            yield from spec.feature_complaints()


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """Make the config of what a checkpoint or a run folder holds of one, whichever floor's run it was."""
    kind = (values.get("objective") or {}).get("kind")
    return (FinetuneConfig if kind in TASKS else RunConfig).model_validate(values)
