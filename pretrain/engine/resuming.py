"""Whether a config may go on with a checkpoint: the same samples in the same order, the same weights' shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trichord.core.errors import UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex

CHECKPOINTS = "checkpoints"

# With another value the run would be another run: other samples, or weights that do not fit.
_FIXED = (
    "seed",
    "data.batch_size",
    "data.lanes",
    "data.block_shards",
    "objective.kind",
    "backbone",
    "audio_backbone",
    "text_backbone",
)
_FREE_IN_BACKBONES = (".drop_path", ".activation_checkpointing")
_NOT_WORTH_SAYING = ("data.sources",)  # shards may lie elsewhere today; their manifests' digests are compared


def data_digests(config: RunConfig) -> list[str]:
    """Identify the shard sets by their manifests, wherever they lie."""
    return [source.manifest.digest() for source in config.stream().open_sources()]


def refuse_other_run(config: RunConfig, digests: list[str], resumed: tuple[Path, CheckpointIndex]) -> None:
    """Raise UserError where the checkpoint belongs to another run than the config describes."""
    path, index = resumed
    fixed = (*_FIXED, *(f"objective.{name}" for name in config.objective.fixed))
    found = [
        f"  {name}: the checkpoint has {before}, now {after}"
        for name, before, after in _differences(index.config, config.model_dump(mode="json"))
        if name.startswith(fixed) and not name.endswith(_FREE_IN_BACKBONES)
    ]
    if _weights(index.config) != _weights(config.model_dump(mode="json")):
        found.append("  data.sources: their weights are not those that the samples were mixed by")
    if digests != index.data_digests:
        found.append("  data.sources: the manifests are not those that the checkpoint was trained on")
    if found:
        listed = "\n".join(found)
        raise UserError(
            f"{path} cannot be continued with these settings:\n{listed}\n"
            "Set them back to continue, or give another --run to start anew; init_from.path takes over its weights."
        )


def changes(config: RunConfig, index: CheckpointIndex) -> list[str]:
    """Word what differs and may: it takes effect from here on."""
    return [
        f"{name}: {before} -> {after}"
        for name, before, after in _differences(index.config, config.model_dump(mode="json"))
        if not name.startswith(_NOT_WORTH_SAYING)
    ]


def _weights(config: Mapping[str, Any]) -> list[float]:
    return [source["weight"] for source in config["data"]["sources"]]


def _differences(before: Any, after: Any, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            yield from _differences(before.get(name), after.get(name), f"{above}.{name}" if above else name)
    elif before != after:
        yield above, before, after
