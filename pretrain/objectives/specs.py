"""The objectives that a recipe may choose from, each told by its `kind`; read without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trichord.pretrain.objectives.av_spec import AvPrototypesSpec
from trichord.pretrain.objectives.svt_spec import SvtSpec
from trichord.pretrain.objectives.video_text_spec import VideoTextSpec

ObjectiveSpec = Annotated[SvtSpec | AvPrototypesSpec | VideoTextSpec, Field(discriminator="kind")]
