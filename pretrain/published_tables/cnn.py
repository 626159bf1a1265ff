"""Convolutional networks of torchvision and timm: of video, and of images."""

from __future__ import annotations

from trichord.pretrain.published_tables.family import Family

_TABLE = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

FAMILIES = (
    Family("R(2+1)D of torchvision", "layer1.0.conv1.0.0.weight", _TABLE),
    Family("R3D of torchvision", "layer1.0.conv1.0.weight", _TABLE),
    Family("ResNet of torchvision or timm", "layer1.0.conv1.weight", _TABLE),
)
