"""The families that a recipe may choose from, each told by its `kind`; a class for each, read without torch."""

from __future__ import annotations

from pretrain.backbones.timesformer_spec import TimeSformerSpec as TimeSformerSpec

BackboneSpec = TimeSformerSpec
