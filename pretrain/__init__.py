"""Floor 1: backbones, objectives and the training engine."""
