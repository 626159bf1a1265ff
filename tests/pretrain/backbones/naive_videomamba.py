"""VideoMamba by the description of its authors, token by token in double precision, with the released tensor names.

As in their code, a branch and a residual pass from block to block and are added before each norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class NaiveVideoMamba:
    """Uses the released tensor names."""

    def __init__(self, weights: Mapping[str, Tensor], depth: int, patch: int) -> None:
        self.weights = {name: tensor.double() for name, tensor in weights.items()}
        self.depth, self.patch = depth, patch

    def __call__(self, clip_CTHW: Tensor) -> list[Tensor]:
        """Return each token of one clip after the final norm, the class token first."""
        branch = self.embed(clip_CTHW.double())
        residual: list[Tensor] | None = None
        for number in range(self.depth):
            residual = branch if residual is None else [a + b for a, b in zip(residual, branch, strict=True)]
            normed = [self.norm(f"layers.{number}.norm.weight", token) for token in residual]
            branch = self.mix(f"layers.{number}.mixer.", normed)
        assert residual is not None
        return [self.norm("norm_f.weight", a + b) for a, b in zip(residual, branch, strict=True)]

    def embed(self, clip_CTHW: Tensor) -> list[Tensor]:
        kernel, bias = self.weights["patch_embed.proj.weight"], self.weights["patch_embed.proj.bias"]
        places, times = self.weights["pos_embed"][0], self.weights["temporal_pos_embedding"][0]
        tokens = [self.weights["cls_token"][0, 0] + places[0]]
        size = self.patch
        for frame in range(clip_CTHW.shape[1]):
            place = 1
            for top in range(0, clip_CTHW.shape[2], size):
                for left in range(0, clip_CTHW.shape[3], size):
                    patch = clip_CTHW[:, frame, top : top + size, left : left + size]
                    token = torch.stack([(each[:, 0] * patch).sum() for each in kernel]) + bias
                    tokens.append(token + places[place] + times[frame])
                    place += 1
        return tokens

    def mix(self, name: str, tokens: list[Tensor]) -> list[Tensor]:
        widened = [self.weights[f"{name}in_proj.weight"] @ token for token in tokens]
        ahead = self.scan(name, "", "A_log", "D", widened)
        back = self.scan(name, "_b", "A_b_log", "D_b", widened[::-1])[::-1]
        return [self.weights[f"{name}out_proj.weight"] @ (a + b) for a, b in zip(ahead, back, strict=True)]

    def scan(self, name: str, way: str, decay: str, skip: str, widened: list[Tensor]) -> list[Tensor]:
        def weight(leaf: str) -> Tensor:
            return self.weights[name + leaf]

        channels, states = weight(decay).shape
        rank = weight(f"dt_proj{way}.weight").shape[1]
        state = torch.zeros(channels, states, dtype=torch.float64)
        out = []
        for now, both in enumerate(widened):
            value = weight(f"conv1d{way}.bias")
            for ago in range(min(now + 1, 4)):
                value = value + weight(f"conv1d{way}.weight")[:, 0, 3 - ago] * widened[now - ago][:channels]
            value, gate = value * torch.sigmoid(value), both[channels:]
            made = weight(f"x_proj{way}.weight") @ value
            step = weight(f"dt_proj{way}.weight") @ made[:rank] + weight(f"dt_proj{way}.bias")
            step = torch.log(1 + torch.exp(step))
            write, read = made[rank : rank + states], made[rank + states :]
            state = torch.exp(-step[:, None] * torch.exp(weight(decay))) * state
            state = state + (step * value)[:, None] * write[None]
            out.append((state @ read + weight(skip) * value) * gate * torch.sigmoid(gate))
        return out

    def norm(self, name: str, token: Tensor) -> Tensor:
        return token / (token.square().mean() + 1e-5).sqrt() * self.weights[name]
