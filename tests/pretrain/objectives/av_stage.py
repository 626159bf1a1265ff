"""A small audio-visual objective for the tests: towers of a few weights, batches with silent clips, two ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.pretrain.objectives.svt_stage import SmallBackbone
from trichord.pretrain.backbones.base import AudioBackbone, AudioTokens
from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec
from trichord.pretrain.objectives.av_prototypes.clusters import Clustered
from trichord.pretrain.objectives.av_prototypes.objective import AvPrototypes
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig

MELS, BATCH = 16, 8
ROUNDS = {"first_step": 2, "every_steps": 2, "samples": 32, "iterations": 10}


class SmallAudio(AudioBackbone):
    """Means over coarse cells of the spectrogram, then a linear map."""

    dim, layers = 12, 3

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, self.dim))

    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        cells = nn.functional.adaptive_avg_pool2d(audio_BTM.to(self.mix[0].weight.dtype)[:, None], (4, 4)).flatten(1)
        pooled_BD = self.mix(cells)
        return AudioTokens(pooled_BD, pooled_BD[:, None, None])

    def layer_of(self, name: str) -> int:
        return 1


def spec(**changes: Any) -> AvPrototypesSpec:
    settings = {
        "clips": {"kind": "window", "frames": 4, "clip_seconds": 1.0},
        "view": {"crop": {"kind": "random_resized", "size": 8}},
        "sound": {"kind": "kaldi_fbank", "mels": MELS, "frames": 20},
        "embedding_dim": 6,
        "hidden_dim": 10,
        "target": {"kind": "prototypes", "clusters": [3, 5], "rounds": ROUNDS},
        **changes,
    }
    return AvPrototypesSpec.model_validate(settings)


def build(batch_size: int = BATCH, weights: int = 3, **changes: Any) -> AvPrototypes:
    """Build the objective with weights from this seed."""
    torch.manual_seed(weights)
    stream = StreamConfig(sources=(SourceConfig(root="nowhere"),), batch_size=batch_size, seed=7)
    objective = AvPrototypes(spec(**changes), SmallBackbone(), SmallAudio(), stream)
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 3)
    return objective


def batch(rows: slice = slice(None), step: int = 0, clips: int = 1, samples: int = BATCH) -> Batch:
    """Return rows of the batch of a step. Every third clip is silent."""
    generator = torch.Generator().manual_seed(100 + step)
    views = [torch.randint(0, 256, (samples, 3, 4, 8, 8), dtype=torch.uint8, generator=generator) for _ in range(clips)]
    sounds = [torch.randn(samples, 20, MELS, generator=generator) for _ in range(clips)]
    present = torch.arange(samples) % 3 != 1
    for sound in sounds:
        sound += 3 * torch.randn(samples, 1, MELS, generator=generator)
        sound[~present] = 0
    tint = torch.randint(0, 256, (samples, 3, 1, 1, 1), dtype=torch.uint8, generator=generator)
    count = len(present[rows])
    return Batch(
        video=[(view // 2 + tint // 2)[rows] for view in views],
        audio=[sound[rows] for sound in sounds],
        audio_present=present[rows],
        valid=torch.ones(count, dtype=torch.bool),
        text=[""] * count,
        labels=[(number % 2,) for number in range(samples)[rows]],
        key=[f"clip {step % 4} {number}" for number in range(samples)][rows],
        shard=["0"] * count,
        source=[0] * count,
        position=[-1] * count,
        timeline=[Timeline()] * count,
        step=step,
        bad=[],
        left_out=[],
        surplus=0,
    )


def run_steps(
    objective: AvPrototypes, steps: range, rank: int = 0, ranks: int = 1, clips: int = 1
) -> list[dict[str, float]]:
    """Take plain SGD steps with the batch split over ranks; return the mean losses of each step."""
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    mean_losses = []
    size = BATCH // ranks
    for step in steps:
        output = objective(batch(slice(rank * size, (rank + 1) * size), step, clips), step)
        output.loss.backward()
        for parameter in trained:
            assert parameter.grad is not None
            sum_over_ranks(parameter.grad).div_(ranks)
        optimiser.step()
        optimiser.zero_grad()
        objective.after_update(step)
        _widen(objective)
        losses = {"loss": output.loss.detach(), **output.losses}
        mean_losses.append({name: float(sum_over_ranks(loss.clone())) / ranks for name, loss in losses.items()})
    return mean_losses


def _widen(objective: AvPrototypes) -> None:
    """Convert centroids, which clustering leaves in float32, to the precision of float64 weights of a test."""
    if isinstance(objective.target, Clustered):
        dtype = next(objective.parameters()).dtype
        for cluster_set, found in objective.target.rounds.prototypes.items():
            widened = found._replace(
                centroids_KD=found.centroids_KD.to(dtype), temperatures_K=found.temperatures_K.to(dtype)
            )
            objective.target.rounds.prototypes[cluster_set] = widened
