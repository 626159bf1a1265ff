"""Who takes part in `bench models`: our backbones and Hugging Face's, with the same weights and the same clip.

Run as a program, it takes one step of one contender and prints the peak of memory that this took.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, n places, L tokens, D features.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from benchmarks.training.scan_contenders import memory_mib
from trichord.core.wheels import make_importable
from trichord.pretrain.backbones.base import Tokens
from trichord.pretrain.backbones.spec import BackboneSpec
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.vivit import ViViTSpec
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import load_tensors

OURS, OURS_BF16 = "ours", "ours in bf16"
EAGER, SDPA = "Hugging Face eager", "Hugging Face sdpa"
_ATTENTION = {EAGER: "eager", SDPA: "sdpa"}

_FIRST_WEIGHTS = re.compile(r"patch_embed.*weight")


class ModelCase(BaseModel):
    """A family and its size; the other figures are those of a ViT of 16 x 16 patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["vivit", "timesformer", "xclip"]
    dim: int
    heads: int
    frames: int = 8
    depth: int = 12
    size: int = 224

    @property
    def spec(self) -> BackboneSpec:
        """Say the case as ours; nothing is dropped, for draws would differ."""
        sizes = self.model_dump(exclude={"family"}) | {"drop_path": 0.0}
        if self.family == "vivit":
            return ViViTSpec.model_validate(sizes)
        return (
            TimeSformerSpec.model_validate(sizes) if self.family == "timesformer" else XClipSpec.model_validate(sizes)
        )

    def clip(self) -> Tensor:
        """Give frames_BCTHW."""
        return torch.randn(1, 3, self.frames, self.size, self.size, generator=torch.Generator().manual_seed(1))

    def hugging_face(self) -> nn.Module:
        """Build Hugging Face's, with weights of its own drawing."""
        make_importable()
        import transformers

        torch.manual_seed(0)
        sizes: dict[str, Any] = {
            "image_size": self.size,
            "num_frames": self.frames,
            "hidden_size": self.dim,
            "intermediate_size": 4 * self.dim,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
        }
        built: Any
        if self.family == "vivit":
            built = transformers.VivitModel(
                transformers.VivitConfig(**sizes, tubelet_size=[2, 16, 16]), add_pooling_layer=False
            )
        elif self.family == "timesformer":
            built = transformers.TimesformerModel(transformers.TimesformerConfig(**sizes, patch_size=16))
        else:
            built = transformers.XCLIPModel(transformers.XCLIPConfig(vision_config={**sizes, "patch_size": 16}))
        built.eval()
        assert isinstance(built, nn.Module)
        return built

    def ours(self, theirs: nn.Module) -> nn.Module:
        """Build ours with the weights of theirs."""
        backbone = self.spec.build().eval()
        beside_video = ("text.*", "prompts.*", "scale.log")
        load_tensors(theirs.state_dict(), InitFrom(path=Path("theirs"), allow_unused=beside_video), backbone)
        return backbone


class Contender:
    """A backbone and how it is run."""

    def __init__(self, name: str, case: ModelCase, backbone: nn.Module) -> None:
        self._name, self._family = name, case.family
        self._backbone: Any = backbone

    def step(self, frames_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Go forward and backward once; give the tokens, and the gradient of the first weights."""
        if self._name in _ATTENTION and self._family != "timesformer":  # theirs knows no other than eager there
            self._backbone.set_attn_implementation(_ATTENTION[self._name])
        self._backbone.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._name == OURS_BF16):
            tokens_BLD = self._look(frames_BCTHW)
        direction_BLD = torch.randn(tokens_BLD.shape, generator=torch.Generator().manual_seed(2))
        (tokens_BLD * direction_BLD).sum().backward()
        first = next(each for name, each in self._backbone.named_parameters() if _FIRST_WEIGHTS.search(name))
        assert first.grad is not None
        return tokens_BLD.detach(), first.grad

    def _look(self, frames_BCTHW: Tensor) -> Tensor:
        """Give tokens_BLD in one order whoever made them; of X-CLIP the pooled vector alone, B1D."""
        if self._name not in _ATTENTION:
            return _our_tokens(self._backbone, frames_BCTHW)
        frames_BTCHW = frames_BCTHW.transpose(1, 2)
        if self._family == "xclip":
            pooled_BD: Tensor = self._backbone.get_video_features(frames_BTCHW).pooler_output
            return pooled_BD.unsqueeze(1)
        last_BLD: Tensor = self._backbone(frames_BTCHW).last_hidden_state
        if self._family == "vivit":
            return last_BLD
        class_B1D, places_BLD = torch.split(last_BLD, [1, last_BLD.shape[1] - 1], dim=1)
        grid_BntD = places_BLD.unflatten(1, (-1, frames_BTCHW.shape[1]))
        return torch.cat((class_B1D, grid_BntD.transpose(1, 2).flatten(1, 2)), dim=1)


def _our_tokens(backbone: nn.Module, frames_BCTHW: Tensor) -> Tensor:
    if isinstance(backbone, XClip):
        pooled: Tokens = backbone(frames_BCTHW, pooled_only=True)  # all that get_video_features is asked for
        return pooled.pooled_BD.unsqueeze(1)
    tokens: Tokens = backbone(frames_BCTHW)
    return torch.cat((tokens.pooled_BD.unsqueeze(1), tokens.grid_BtnD.flatten(1, 2)), dim=1)


def contenders(case: ModelCase, names: Sequence[str]) -> dict[str, Contender]:
    """Build those that are named, all with the same weights."""
    theirs = case.hugging_face()
    ours = case.ours(theirs)
    return {name: Contender(name, case, theirs if name in _ATTENTION else ours) for name in names}


def main(name: str, case_json: str) -> None:
    """Say how much memory a model and one step of it take at their peak."""
    torch.set_num_threads(1)
    case = ModelCase.model_validate_json(case_json)
    before_mib = memory_mib(peak=False)
    backbone = case.hugging_face() if name in _ATTENTION else case.spec.build().eval()
    Contender(name, case, backbone).step(case.clip())
    print(memory_mib(peak=True) - before_mib)


if __name__ == "__main__":
    main(*sys.argv[1:])
