"""The baselines of a pretrained network: pixel statistics, and the same network untrained or trained with labels.

Legend: N clips, B of a batch, C colours, T frames, H and W pixels, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.learning.synthetic_clips import FACTORS, FactorTransform
from trichord.core.seeds import derive_seed
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.parameter_groups import group_parameters
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import batches
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import FullVideo
from trichord.shards.transforms.crops import CropSpec
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

_BINS = 16
_THUMBNAIL = 8
_AT_ONCE = 64


def pixel_statistics(frames_NCTHW: Tensor) -> Tensor:
    """Return, for each clip, mean, deviation and histogram of each colour, and thumbnails of its mean and its change.

    The second thumbnail is the mean absolute difference from one frame to the next, which covers time as well.
    """
    return torch.cat([_statistics(part.float() / 255) for part in frames_NCTHW.split(_AT_ONCE)])


def initial_backbone(config: RunConfig) -> Backbone:
    """Build the backbone of a run with the initial weights of that run."""
    torch.manual_seed(derive_seed(config.seed, "first weights"))
    return config.backbone.build()


@torch.no_grad()
def pooled(backbone: Backbone, frames_NCTHW: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the pooled vectors of decoded clips."""
    backbone.eval()
    parts = frames_NCTHW.split(_AT_ONCE)
    return torch.cat([backbone(normalise(frames_BCTHW)).pooled_BD for frames_BCTHW in parts])


def train_with_labels(config: RunConfig, crop: CropSpec, beat: Callable[[], None] = lambda: None) -> Backbone:
    """Train the network of the run from init with a linear head per factor, on the sum of cross-entropies.

    Steps, batch size, order of samples, optimiser and schedules are those of the run. A sample is one view of the whole
    clip, cropped as in the run, with unchanged colours because they are a label.
    """
    backbone = initial_backbone(config)
    heads = nn.ModuleDict({factor: nn.Linear(backbone.dim, len(names)) for factor, names in FACTORS.items()})
    network = nn.ModuleDict({"backbone": backbone, "heads": heads}).train()
    groups = group_parameters(network, config.optimiser.rules, {"backbone.": backbone})
    adam = torch.optim.AdamW(
        [{"params": list(group.parameters.values())} for group in groups],
        betas=config.optimiser.betas,
        eps=config.optimiser.eps,
    )
    views = ViewsSpec(clips=FullVideo(frames=config.backbone.frames), views=(ViewSpec(crop=crop),))
    transform = FactorTransform(SampleSpec(views=views))
    with contextlib.closing(batches(config.stream(), transform, 0, 1)) as stream:
        for step in range(config.steps):
            for adams, group in zip(adam.param_groups, groups, strict=True):
                rate = config.optimiser.learning_rate_at(step, config.steps, config.data.batch_size)
                adams["lr"] = rate * group.lr_scale
                adams["weight_decay"] = config.optimiser.weight_decay.at(step, config.steps) * group.decay_scale
            adam.zero_grad()
            _label_loss(config, network, next(stream)).backward()
            if config.engine.clip_gradient_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), config.engine.clip_gradient_norm)
            adam.step()
            beat()
    return backbone


def _label_loss(config: RunConfig, network: nn.ModuleDict, batch: Batch) -> Tensor:
    frames_BCTHW = config.objective.normalisation(batch.video[0])
    pooled_BD = network["backbone"](frames_BCTHW).pooled_BD
    labels_BF = torch.tensor(batch.labels)
    heads = network["heads"]
    assert isinstance(heads, nn.ModuleDict)
    losses = [
        functional.cross_entropy(heads[factor](pooled_BD), labels_BF[:, column])
        for column, factor in enumerate(FACTORS)
    ]
    return torch.stack(losses).sum()


def _statistics(frames_BCTHW: Tensor) -> Tensor:
    pixels_BCN = frames_BCTHW.flatten(2)
    bins_BCN = (pixels_BCN * _BINS).long().clamp(max=_BINS - 1)
    histogram_BCK = torch.zeros(*pixels_BCN.shape[:2], _BINS).scatter_add_(2, bins_BCN, torch.ones_like(pixels_BCN))
    change_BCTHW = frames_BCTHW.diff(dim=2).abs()
    parts = [
        pixels_BCN.mean(dim=2),
        pixels_BCN.std(dim=2),
        histogram_BCK / pixels_BCN.shape[2],
        functional.adaptive_avg_pool2d(frames_BCTHW.mean(dim=2), _THUMBNAIL),
        functional.adaptive_avg_pool2d(change_BCTHW.mean(dim=2), _THUMBNAIL),
    ]
    return torch.cat([part.flatten(1) for part in parts], dim=1)
