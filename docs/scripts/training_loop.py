"""Your own training loop on trichord's stream and backbones: python training_loop.py SHARDS [STEPS]"""

import sys

import torch
from torch import nn
from torch.nn import functional

import trichord
from trichord.shards.transforms.normalise import Normalisation


def main(shards: str, steps: int) -> None:
    torch.manual_seed(0)
    classes = len(trichord.open_shards(shards).classes)
    backbone = trichord.create_backbone("timesformer", dim=64, depth=2, heads=2, patch=8, frames=4, size=32)
    head = nn.Linear(backbone.dim, classes)
    optimiser = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-3)
    normalise = Normalisation()  # uint8 frames until here: move a batch to its device first
    with trichord.stream(shards, batch_size=8, frames=4, size=32) as batches:
        for step, batch in zip(range(steps), batches, strict=False):
            pooled = backbone(normalise(batch.video[0])).pooled_BD
            labels = torch.tensor([labels[0] for labels in batch.labels])
            loss = functional.cross_entropy(head(pooled), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            print(f"step {step}: loss {loss:.3f}")
        print(batches.figures()["samples"], "samples read")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10)
