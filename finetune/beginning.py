"""What a head starts from: backbones with the weights of a pretraining run or of a file, and how frequent classes are.

Legend: K classes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from trichord.core.errors import SampleError
from trichord.finetune.classify import Classification, check_labels
from trichord.finetune.config import FinetuneConfig, read_config
from trichord.finetune.loss_specs import BinarySpec
from trichord.finetune.recipe import is_run, read_run
from trichord.finetune.specs import ClassificationSpec, Sense
from trichord.finetune.trunk import Trunk
from trichord.pretrain.collectives import rank, sum_over_ranks, world_size
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.export import read_part
from trichord.pretrain.objective import Objective
from trichord.pretrain.published import Fit, load_published, load_tensors
from trichord.pretrain.published_tables.family import Family
from trichord.shards.reading.archive import open_archive
from trichord.shards.record import Annotation

_OWN = Family("a run's own", "backbone.*", ())  # its names are ours


def begin(config: FinetuneConfig, objective: Objective) -> None:
    """Load what the recipe names; all ranks do so, before the optimiser is made."""
    senses: tuple[tuple[Sense, InitFrom | None], ...] = (
        ("video", config.init_from),
        ("audio", config.audio_init_from),
    )
    for sense, init in senses:
        trunk = getattr(objective, sense, None)
        if isinstance(trunk, Trunk) and init is not None:
            lines = load_weights(init, trunk, sense).lines()
            if rank() == 0:
                print(f"{sense}: {'; '.join(lines)}", file=sys.stderr)
    if isinstance(objective, Classification):
        loss = objective.spec.loss
        if isinstance(loss, BinarySpec) and loss.pos_weight == "inverse_frequency":
            objective.pos_weight_K.copy_(inverse_frequency(*count_labels(config, objective.spec)))
    else:
        from trichord.finetune.captions.beginning import begin_language

        begin_language(config, objective)


def load_weights(init: InitFrom, trunk: Trunk, sense: Sense) -> Fit:
    """Give a backbone the weights of a file, or of a run's part.

    Of the parts it is the one that is named, else the one that is called like the sense, else the run's best.
    """
    if not is_run(init.path):
        return load_published(init, trunk.backbone)
    parts = read_config(read_run(init.path)).objective.parts
    tensors, _, _ = read_part(init.path, init.part or (sense if sense in parts else None), read_config)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    return load_tensors(own, init, trunk.backbone, family=_OWN)


def count_labels(config: FinetuneConfig, spec: ClassificationSpec) -> tuple[Tensor, int]:
    """Count the training clips of each class, and all of them; the ranks share the shards out among them."""
    counts: Counter[int] = Counter()
    clips = 0
    for whose, annotation in read_annotations(config):
        check_labels(spec, annotation.labels, whose)
        counts.update(set(annotation.labels))
        clips += 1
    found = [*(counts[label] for label in range(spec.count)), clips]
    totals = sum_over_ranks(torch.tensor(found, dtype=torch.float64))
    return totals[:-1], int(totals[-1])


def inverse_frequency(counts_K: Tensor, clips: int) -> Tensor:
    """Give clips without a class for each with it; a class that no clip has weighs 1, for it has no yes to weigh."""
    return torch.where(counts_K > 0, (clips - counts_K) / counts_K.clamp_min(1), torch.ones_like(counts_K)).float()


def read_annotations(config: FinetuneConfig) -> Iterator[tuple[str, Annotation]]:
    """Give what this rank's share of the shards says of its clips, and whose it is."""
    limits = config.data.reading_limits()
    shards = [(source.root, entry) for source in config.data.open_sources() for entry in source.manifest.shards]
    for root, entry in shards[rank() :: world_size()]:
        archive = open_archive(
            root, entry.name, cache_dir=limits.cache_dir, size=entry.bytes, sha256=entry.sha256, policy=limits.policy
        )
        for position, key in enumerate(archive.keys):
            try:
                annotation = archive.read(position).annotation()
            except SampleError:  # here it has no say; the stream counts and names it
                continue
            yield f"sample {key} of {entry.name}", annotation
        archive.close()
