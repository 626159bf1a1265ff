"""A small video-text objective for the tests: towers of a few weights, samples that lack caption, label or sound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.pretrain.objectives.av_stage import MELS, SmallAudio
from tests.pretrain.objectives.svt_stage import SmallBackbone
from trichord.pretrain.backbones.base import TextBackbone, Tokens
from trichord.pretrain.collectives import rank, sum_over_ranks
from trichord.pretrain.objectives.video_text import VideoTextSpec
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.transforms.mix import Mixing

BATCH, LANES, CLASSES = 8, 4, ("jump", "sit", "wave")
CAPTIONS = [f"thing {number}" for number in range(5)]


class Forgetful(SmallBackbone):
    """A random backbone: its output depends on the state of the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        pooled_BD, _ = super().forward(frames_BCTHW)
        dropped_BD = self.drop(pooled_BD)
        return Tokens(dropped_BD, torch.stack([pooled_BD, dropped_BD], dim=1)[:, None])


class SmallText(TextBackbone):
    """A vector for each text by its checksum, then a linear map; counts its calls."""

    dim, layers = 10, 3

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 12)
        self.mix = nn.Linear(12, self.dim)
        self.asked = 0

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[zlib.crc32(text.encode()) % 64] for text in texts])

    def forward(self, tokens_KL: Tensor) -> Tensor:
        self.asked += 1
        found: Tensor = self.mix(self.table(tokens_KL[:, 0]).tanh())
        return found

    def layer_of(self, name: str) -> int:
        return 1


def spec(**changes: Any) -> VideoTextSpec:
    settings = {
        "clips": {"kind": "segments", "frames": 4},
        "view": {"crop": {"kind": "random_resized", "size": 8}},
        "sound": {"kind": "kaldi_fbank", "mels": MELS, "frames": 20},
        "classes": {"names": list(CLASSES), "prompt": "to {}", "label_smoothing": 0.1},
        "prompts": True,
        **changes,
    }
    return VideoTextSpec.model_validate(settings)


def build(**changes: Any) -> VideoTextObjective:
    torch.manual_seed(5)
    found = spec(**changes)
    audio = SmallAudio() if found.sound else None
    objective = VideoTextObjective(found, Forgetful(), SmallText(), audio, Mixing(7, BATCH // LANES))
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) / 3)
    return objective


def batch(rows: slice = slice(None), step: int = 0, samples: int = BATCH) -> Batch:
    """Return rows of the batch of a step. Some have no caption, some no label, some no sound."""
    generator = torch.Generator().manual_seed(50 + step)
    frames = torch.randint(0, 256, (samples, 3, 4, 8, 8), dtype=torch.uint8, generator=generator)
    sound = torch.randn(samples, 20, MELS, generator=generator)
    numbers = range(samples)[rows]
    return Batch(
        video=[frames[rows]],
        audio=[sound[rows]],
        audio_present=(torch.arange(samples) % 3 != 1)[rows],
        valid=torch.ones(len(numbers), dtype=torch.bool),
        text=["" if number % 4 == 2 else CAPTIONS[(number + step) % 5] for number in numbers],
        labels=[() if number % 5 == 0 else ((number + step) % 3,) for number in numbers],
        key=[f"clip {step} {number}" for number in numbers],
        shard=["0"] * len(numbers),
        source=[0] * len(numbers),
        position=[-1] * len(numbers),
        timeline=[Timeline()] * len(numbers),
        step=step,
        bad=[],
        left_out=[],
        surplus=0,
    )


def draw_as(numbers: Sequence[int]) -> Callable[[int], None]:
    """Seed the draws of the model for a part by its number in the whole batch."""

    def draw(part: int) -> None:
        torch.manual_seed(1000 + numbers[part])

    return draw


def gradients(objective: VideoTextObjective, ranks: int, parts: int, step: int = 0) -> tuple[dict[str, float], Any]:
    """Run forward and backward of a step like the engine; return mean losses and gradients over ranks."""
    pieces = ranks * parts
    size = BATCH // pieces
    own = [rank() * parts + part for part in range(parts)]
    batches = [batch(slice(number * size, (number + 1) * size), step) for number in own]
    draw = draw_as(own)
    if parts > 1:
        objective.preview(batches, step, draw)
    total = torch.zeros(())
    losses: dict[str, Tensor] = {}
    for part, piece in enumerate(batches):
        draw(part)
        output = objective(piece, step)
        (output.loss / parts).backward()
        total = total + output.loss.detach() / parts
        for name, loss in output.losses.items():
            losses[name] = losses.get(name, torch.zeros(())) + loss / parts
    found = {name: each.grad for name, each in objective.named_parameters() if each.grad is not None}
    for grad in found.values():
        sum_over_ranks(grad).div_(ranks)
    mean_losses = {
        name: float(sum_over_ranks(each.clone())) / ranks for name, each in {"loss": total, **losses}.items()
    }
    return mean_losses, found
