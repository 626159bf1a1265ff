"""The families that a recipe may choose from, each told by its `kind`; a class for each, read without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trichord.pretrain.backbones.cnn_rnn_spec import CnnRnnSpec as CnnRnnSpec
from trichord.pretrain.backbones.frame_fusion_spec import FrameFusionSpec as FrameFusionSpec
from trichord.pretrain.backbones.resnet_3d_spec import Resnet3dSpec as Resnet3dSpec
from trichord.pretrain.backbones.timesformer_spec import TimeSformerSpec as TimeSformerSpec
from trichord.pretrain.backbones.videomamba_spec import VideoMambaSpec as VideoMambaSpec
from trichord.pretrain.backbones.vivit_spec import ViViTSpec as ViViTSpec
from trichord.pretrain.backbones.vtn_spec import VtnSpec as VtnSpec
from trichord.pretrain.backbones.xclip_spec import XClipSpec as XClipSpec

BackboneSpec = Annotated[
    CnnRnnSpec | FrameFusionSpec | Resnet3dSpec | TimeSformerSpec | VideoMambaSpec | ViViTSpec | VtnSpec | XClipSpec,
    Field(discriminator="kind"),
]
