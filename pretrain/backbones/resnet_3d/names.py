"""Tensor names of residual networks over space and time, as released by torchvision."""

from __future__ import annotations

from trichord.pretrain.weights.naming import Family

_TABLE = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

FAMILIES = (
    Family("R(2+1)D of torchvision", "layer1.0.conv1.0.0.weight", _TABLE),
    Family("R3D of torchvision", "layer1.0.conv1.0.weight", _TABLE),
)
