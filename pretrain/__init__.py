"""Floor 1: backbones, objectives and the training engine."""

import shards as shards  # first of all, so that torchvision can be imported beside a CPU build of torch
