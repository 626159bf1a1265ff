"""Configuration of a fine-tuning run: a run of the engine whose objective is a task; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trichord.finetune.tasks.registry import TASKS, AnyTask
from trichord.pretrain.backbones.registry import AnyBackbone
from trichord.pretrain.config import RunConfig
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig

if TYPE_CHECKING:
    from trichord.shards.reading.batch import SampleTransform


class FinetuneConfig(RunConfig):
    """A head on one or two backbones; all other settings are those of pretraining."""

    backbone: AnyBackbone | None  # type: ignore[assignment]  # null where a head takes audio only
    """Encoder of video frames, selected by `kind`; null for a head that takes audio only."""
    objective: AnyTask
    """The task that is learnt on the backbones, selected by `kind`."""
    pretrained: str | None = None
    """What the initial weights were trained on, to be shown in tables; by default the objective of the run in
    `init_from`, if that is a run."""
    features: Path | None = None
    """Folder for the tokens of frozen backbones, which are computed at the start of a run and then read instead of the
    videos; null decodes the videos and runs the backbones in every step."""

    def stream(self) -> StreamConfig:
        """Return what is read: the set, or the features stored for it."""
        found = super().stream()
        if self.features is None:
            return found
        stored = [
            SourceConfig(root=str(self.features_of(number)), weight=source.weight)
            for number, source in enumerate(found.sources)
        ]
        return found.model_copy(update={"sources": tuple(stored)})

    def features_of(self, number: int) -> Path:
        """Return the folder where the features of one of the sets are stored."""
        assert self.features is not None
        return self.features / str(number)

    def transform(self) -> SampleTransform:
        """Return the transform from videos to examples, or the one that reads stored features."""
        if self.features is None:
            return super().transform()
        from trichord.finetune.features import read_features

        return partial(read_features, self.objective.sample_spec().label_rule)

    def _view_complaints(self) -> Iterator[str]:
        spec = self.objective
        for modality, backbone, name in (
            ("video", self.backbone, "backbone"),
            ("audio", self.audio_backbone, "audio_backbone"),
        ):
            if modality in spec.inputs and backbone is None:
                yield f"objective.inputs name {modality}: give {name}.kind, or a run that has one"
            if modality not in spec.inputs and backbone is not None:
                yield f"{name} is given, but objective.inputs do not name {modality}"
        if self.backbone is not None:
            yield from super()._view_complaints()
        if self.features is not None:
            yield from spec.feature_complaints()


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """Build the config from the values in a checkpoint or run folder, of pretraining or of fine-tuning."""
    objective = values.get("objective")
    kind = objective.get("kind") if isinstance(objective, Mapping) else None
    return (FinetuneConfig if isinstance(kind, str) and kind in TASKS else RunConfig).model_validate(values)
