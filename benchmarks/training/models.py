"""Our backbones beside Hugging Face's, as ratios of CPU time and of memory, forward and backward.

All run in one process, on one thread, with the allocator settings of `trichord pretrain`, with the same weights and on
the same clip; tokens and a gradient are compared. Peaks of memory are those of a process for each contender, with the
system's own allocator.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, n places, L tokens, D features.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from benchmarks.harness import Beat, Ratio, Turns, largest_difference, take_turns, timed
from benchmarks.processes import peak_growth_mib, run_alone
from trichord.core.wheels import make_importable
from trichord.pretrain.backbones.base import Tokens
from trichord.pretrain.backbones.spec import BackboneSpec
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.vivit import ViViTSpec
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import load_tensors

OURS, OURS_BF16 = "ours", "ours in bf16"
EAGER, SDPA = "Hugging Face eager", "Hugging Face sdpa"
LARGEST_DIFFERENCE = 1e-4  # of tokens and of a gradient, relative to the largest value of each
LARGEST_DIFFERENCE_BF16 = 0.1
_ATTENTION = {EAGER: "eager", SDPA: "sdpa"}
_FIRST_WEIGHTS = re.compile(r"patch_embed.*weight")


class ModelCase(BaseModel):
    """A family and its size; all else is as in a ViT with 16 x 16 patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["vivit", "timesformer", "xclip"]
    dim: int
    heads: int
    frames: int = 8
    depth: int = 12
    size: int = 224

    @property
    def spec(self) -> BackboneSpec:
        """Return our spec of the case, without drop path, whose draws would differ."""
        sizes = self.model_dump(exclude={"family"}) | {"drop_path": 0.0}
        if self.family == "vivit":
            return ViViTSpec.model_validate(sizes)
        return (
            TimeSformerSpec.model_validate(sizes) if self.family == "timesformer" else XClipSpec.model_validate(sizes)
        )

    def clip(self) -> Tensor:
        """Draw frames_BCTHW."""
        return torch.randn(1, 3, self.frames, self.size, self.size, generator=torch.Generator().manual_seed(1))

    def hugging_face(self) -> nn.Module:
        """Build the model of Hugging Face, with its own init."""
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
        """Build our backbone with the weights of their model."""
        backbone = self.spec.build().eval()
        beside_video = ("text.*", "prompts.*", "scale.log")
        load_tensors(theirs.state_dict(), InitFrom(path=Path("theirs"), allow_unused=beside_video), backbone)
        return backbone


class MeasuredModel:
    """A backbone and how it is run."""

    def __init__(self, name: str, case: ModelCase, backbone: nn.Module) -> None:
        self._name, self._family = name, case.family
        self._backbone: Any = backbone

    def step(self, frames_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Run forward and backward once; return the tokens, and the gradient of the patch embedding."""
        if self._name in _ATTENTION and self._family != "timesformer":  # which has eager attention only
            self._backbone.set_attn_implementation(_ATTENTION[self._name])
        self._backbone.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._name == OURS_BF16):
            tokens_BLD = self._tokens(frames_BCTHW)
        direction_BLD = torch.randn(tokens_BLD.shape, generator=torch.Generator().manual_seed(2))
        (tokens_BLD * direction_BLD).sum().backward()
        first = next(each for name, each in self._backbone.named_parameters() if _FIRST_WEIGHTS.search(name))
        assert first.grad is not None
        return tokens_BLD.detach(), first.grad

    def _tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Return tokens_BLD in the order of our backbones; of X-CLIP the pooled vector alone, B1D."""
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
        pooled: Tokens = backbone(frames_BCTHW, pooled_only=True)  # as get_video_features returns
        return pooled.pooled_BD.unsqueeze(1)
    tokens: Tokens = backbone(frames_BCTHW)
    return torch.cat((tokens.pooled_BD.unsqueeze(1), tokens.grid_BtnD.flatten(1, 2)), dim=1)


def contenders(case: ModelCase, names: Sequence[str]) -> dict[str, MeasuredModel]:
    """Build the named contenders, all with the same weights."""
    theirs = case.hugging_face()
    ours = case.ours(theirs)
    return {name: MeasuredModel(name, case, theirs if name in _ATTENTION else ours) for name in names}


@dataclass(frozen=True)
class Contest:
    """What is measured, and how many times as fast as each of the others it should be."""

    case: ModelCase
    goals: Mapping[str, float]
    measured: str = OURS
    memory_goals: Mapping[str, float] = field(default_factory=dict)  # times as little memory


_SMALL, _BASE = {"dim": 384, "heads": 6}, {"dim": 768, "heads": 12}


def _case(family: str, **sizes: int) -> ModelCase:
    return ModelCase.model_validate({"family": family} | sizes)


CONTESTS = {
    "ViViT 1, base, 16 frames": Contest(
        _case("vivit", frames=16, **_BASE), {EAGER: 1.3, SDPA: 1.0}, memory_goals={EAGER: 2.0}
    ),
    "TimeSformer, small": Contest(_case("timesformer", **_SMALL), {EAGER: 1.07}),
    "TimeSformer, base": Contest(_case("timesformer", **_BASE), {EAGER: 1.0}),
    "X-CLIP, small": Contest(_case("xclip", **_SMALL), {EAGER: 1.07, SDPA: 1.07}),
    "X-CLIP, base": Contest(_case("xclip", **_BASE), {EAGER: 1.0, SDPA: 1.0}),
    "TimeSformer in bf16, base": Contest(_case("timesformer", **_BASE), {OURS: 2.2}, OURS_BF16),
}


def measurable(contests: Mapping[str, Contest]) -> dict[str, Contest]:
    """Leave out bf16 where the processor would have to emulate it: a step would take many minutes."""
    has_bf16 = any(can for name, can in torch.cpu.get_capabilities().items() if "bf16" in name)
    return {name: each for name, each in contests.items() if has_bf16 or each.measured != OURS_BF16}


def run_model_bench(contests: Mapping[str, Contest], rounds: int, beat: Beat = lambda: None) -> list[dict[str, Any]]:
    """Measure each contest; return a row for each and for each of the other contenders."""
    threads = torch.get_num_threads()
    apply()
    torch.set_num_threads(1)
    try:
        return [row for name, contest in contests.items() for row in _measure(name, contest, rounds, beat)]
    finally:
        torch.set_num_threads(threads)


def peak_mib(name: str, case: ModelCase) -> float:
    """Return how much memory a contender and one step of it need, in a process of its own."""
    return float(run_alone(name, "benchmarks.training.models", name, case.model_dump_json())[-1])


def _measure(name: str, contest: Contest, rounds: int, beat: Beat) -> list[dict[str, Any]]:
    names = (contest.measured, *contest.goals)
    models = contenders(contest.case, names)

    def lap(each: str, clip_BCTHW: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
        return timed(lambda: models[each].step(clip_BCTHW))

    turns = take_turns(names, [contest.case.clip()], rounds, lap, beat, largest_difference)
    mib = {each: peak_mib(each, contest.case) for each in names if contest.memory_goals}
    return [_row(name, against, contest, turns, mib) for against in contest.goals]


def _row(
    name: str,
    against: str,
    contest: Contest,
    turns: Turns[float],
    mib: Mapping[str, float],
) -> dict[str, Any]:
    ours_s, theirs_s = turns.seconds[contest.measured], turns.seconds[against]
    ratio = Ratio.of(ours_s, theirs_s)
    apart = max(max(differences) for differences in turns.differences.values())
    memory_ratio = mib[against] / mib[contest.measured] if mib else None
    memory_goal = contest.memory_goals.get(against)
    limit = LARGEST_DIFFERENCE if contest.measured == OURS else LARGEST_DIFFERENCE_BF16
    is_small_enough = memory_goal is None or (memory_ratio is not None and memory_ratio >= memory_goal)
    return {
        "model": name,
        "against": against if contest.measured == OURS else "ours in fp32",
        "ours_s": round(statistics.median(ours_s), 2),
        "theirs_s": round(statistics.median(theirs_s), 2),
        "ratio": round(ratio.median, 2),
        "range": ratio.range,
        "goal": contest.goals[against],
        "ours_mib": round(mib[contest.measured]) if mib else None,
        "theirs_mib": round(mib[against]) if mib else None,
        "memory_ratio": round(memory_ratio, 2) if memory_ratio else None,
        "memory_goal": memory_goal,
        "met": apart <= limit and ratio.median >= contest.goals[against] and is_small_enough,
        "apart": float(f"{apart:.1e}"),
        "note": "" if apart <= limit else f"results differ by more than {limit:g}: not the same work",
    }


def main(name: str, case_json: str) -> None:
    """Print how much memory a model and one step of it take at their peak."""
    torch.set_num_threads(1)
    case = ModelCase.model_validate_json(case_json)

    def build_and_step() -> None:
        backbone = case.hugging_face() if name in _ATTENTION else case.spec.build().eval()
        MeasuredModel(name, case, backbone).step(case.clip())

    print(peak_growth_mib(build_and_step))


if __name__ == "__main__":
    main(*sys.argv[1:])
