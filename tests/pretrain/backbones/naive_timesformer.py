"""TimeSformer token by token, in loops and double precision, for any number of frames and any size."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, sqrt

import torch
from torch import Tensor

from trichord.pretrain.backbones.timesformer import TimeSformerSpec


class NaiveTimeSformer:
    """Keeps tokens in a dict: the class token with the key "class", the rest with (frame, row, column)."""

    def __init__(self, spec: TimeSformerSpec, weights: Mapping[str, Tensor]) -> None:
        self.spec = spec
        self.weights = {name: tensor.detach().double() for name, tensor in weights.items()}

    def __call__(self, clip_CTHW: Tensor) -> dict[object, Tensor]:
        """Return each token of one clip after the final norm, for attention "divided" or "joint"."""
        clip_CTHW = clip_CTHW.double()
        frames, rows = clip_CTHW.shape[1], clip_CTHW.shape[2] // self.spec.patch
        columns = clip_CTHW.shape[3] // self.spec.patch
        tokens = self.embed(clip_CTHW, frames, rows, columns)
        where = [(row, column) for row in range(rows) for column in range(columns)]
        for number in range(self.spec.depth):
            if self.spec.attention == "divided":
                tokens = self.divided(f"blocks.{number}.", tokens, frames, where)
            else:
                attended = self.attend(f"blocks.{number}.attn.", self.normed(f"blocks.{number}.norm1.", tokens))
                tokens = {key: tokens[key] + attended[key] for key in tokens}
            tokens = self.perceive(f"blocks.{number}.", tokens)
        return self.normed("norm.", tokens)

    def embed(self, clip_CTHW: Tensor, frames: int, rows: int, columns: int) -> dict[object, Tensor]:
        size, table = self.spec.patch, self.spec.size // self.spec.patch
        kernel, bias = self.weights["patch_embed.proj.weight"], self.weights["patch_embed.proj.bias"]
        tokens: dict[object, Tensor] = {"class": self.weights["cls_token"][0, 0]}
        places = self.weights.get("pos_embed")
        if places is not None:
            tokens["class"] = tokens["class"] + places[0, 0]
        for frame in range(frames):
            for row in range(rows):
                for column in range(columns):
                    top, left = row * size, column * size
                    patch = clip_CTHW[:, frame, top : top + size, left : left + size]
                    token = torch.stack([(each * patch).sum() for each in kernel]) + bias
                    if places is not None:
                        nearest = floor(row * table / rows) * table + floor(column * table / columns)
                        token = token + places[0, 1 + nearest]
                    if "time_embed" in self.weights:
                        token = token + self.weights["time_embed"][0, floor(frame * self.spec.frames / frames)]
                    tokens[frame, row, column] = token
        return tokens

    def divided(
        self, name: str, tokens: dict[object, Tensor], frames: int, where: list[tuple[int, int]]
    ) -> dict[object, Tensor]:
        learnt = dict(tokens)
        for place in where:
            together = {(frame, *place): tokens[frame, *place] for frame in range(frames)}
            attended = self.attend(f"{name}temporal_attn.", self.normed(f"{name}temporal_norm1.", together))
            for key, token in attended.items():
                learnt[key] = tokens[key] + self.linear(f"{name}temporal_fc.", token)
        seen, classes = dict(learnt), []
        for frame in range(frames):
            together = {"class": learnt["class"]} | {(frame, *place): learnt[frame, *place] for place in where}
            attended = self.attend(f"{name}attn.", self.normed(f"{name}norm1.", together))
            classes.append(attended.pop("class"))
            for key, token in attended.items():
                seen[key] = learnt[key] + token
        seen["class"] = learnt["class"] + torch.stack(classes).mean(dim=0)
        return seen

    def perceive(self, name: str, tokens: dict[object, Tensor]) -> dict[object, Tensor]:
        def widened(token: Tensor) -> Tensor:
            wide = self.linear(f"{name}mlp.fc1.", token)
            return self.linear(f"{name}mlp.fc2.", wide * (1 + torch.erf(wide / sqrt(2))) / 2)

        return {key: tokens[key] + widened(token) for key, token in self.normed(f"{name}norm2.", tokens).items()}

    def attend(self, name: str, tokens: dict[object, Tensor]) -> dict[object, Tensor]:
        width = self.spec.dim // self.spec.heads
        projected = {key: self.linear(f"{name}qkv.", token) for key, token in tokens.items()}
        answers = {}
        for asking, vector in projected.items():
            heads = []
            for head in range(self.spec.heads):
                at = [slice(first, first + width) for first in range(head * width, 3 * self.spec.dim, self.spec.dim)]
                scores = torch.stack([vector[at[0]] @ other[at[1]] / sqrt(width) for other in projected.values()])
                values = torch.stack([other[at[2]] for other in projected.values()])
                heads.append((scores.exp() / scores.exp().sum()) @ values)
            answers[asking] = self.linear(f"{name}proj.", torch.cat(heads))
        return answers

    def normed(self, name: str, tokens: dict[object, Tensor]) -> dict[object, Tensor]:
        weight, bias = self.weights[f"{name}weight"], self.weights[f"{name}bias"]
        return {
            key: (token - token.mean()) / (token.var(correction=0) + 1e-6).sqrt() * weight + bias
            for key, token in tokens.items()
        }

    def linear(self, name: str, token: Tensor) -> Tensor:
        return self.weights[f"{name}weight"] @ token + self.weights[f"{name}bias"]
