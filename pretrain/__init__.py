"""Pretraining: backbones, objectives and the training engine."""
