"""The four models of ViViT token by token, in loops and double precision."""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor

from tests.pretrain.backbones.naive_timesformer import NaiveTimeSformer
from trichord.pretrain.backbones.vivit import ViViTSpec

Tokens = dict[object, Tensor]


class NaiveViViT(NaiveTimeSformer):
    """Keeps tokens in a dict: class tokens with names that start with "class", the rest with (step, row, column)."""

    spec: ViViTSpec  # type: ignore[assignment]

    def __call__(self, clip_CTHW: Tensor) -> Tokens:
        """Return the pooled vector with the key "pooled", and each token of a clip after the final norm."""
        tokens = self.tubelets(clip_CTHW.double())
        steps = sorted({key[0] for key in tokens})
        if self.spec.model == "factorised_encoder":
            return self.encode_twice(tokens, steps)
        for number, key in enumerate(tokens):
            tokens[key] = tokens[key] + self.weights["pos_embed"][0, self.has_class + number]
        if self.has_class:
            tokens = {"class": self.weights["cls_token"][0, 0] + self.weights["pos_embed"][0, 0]} | tokens
        for number in range(self.spec.depth):
            tokens = self.block(f"blocks.{number}.", tokens)
        tokens = self.normed("norm.", tokens)
        return self.with_pooled(tokens)

    @property
    def has_class(self) -> bool:
        return self.spec.pooled == "class"

    def tubelets(self, clip_CTHW: Tensor) -> Tokens:
        kernel, bias = self.weights["patch_embed.proj.weight"], self.weights["patch_embed.proj.bias"]
        deep, wide = self.spec.tubelet, self.spec.patch
        tokens: Tokens = {}
        for step in range(clip_CTHW.shape[1] // deep):
            for row in range(clip_CTHW.shape[2] // wide):
                for column in range(clip_CTHW.shape[3] // wide):
                    first, top, left = step * deep, row * wide, column * wide
                    tubelet = clip_CTHW[:, first : first + deep, top : top + wide, left : left + wide]
                    tokens[step, row, column] = torch.stack([(each * tubelet).sum() for each in kernel]) + bias
        return tokens

    def encode_twice(self, tokens: Tokens, steps: list[int]) -> Tokens:
        """Model 2: an encoder of each step, then one of the vectors of the steps."""
        seen: Tokens = {}
        pooled: Tokens = {}
        for step in steps:
            table = self.weights["pos_embed"][0]
            here = {key: token for key, token in tokens.items() if key[0] == step}  # type: ignore[index]
            here = {key: token + table[self.has_class + number] for number, (key, token) in enumerate(here.items())}
            if self.has_class:
                here = {"class": self.weights["cls_token"][0, 0] + table[0]} | here
            for number in range(self.spec.depth):
                here = self.block(f"blocks.{number}.", here)
            here = self.with_pooled(self.normed("norm.", here))
            pooled[step, 0, 0] = here.pop("pooled")
            seen |= here
        if self.spec.time_depth:
            table = self.weights["time_embed"][0]
            for step in steps:
                pooled[step, 0, 0] = pooled[step, 0, 0] + table[self.has_class + step]
            if self.has_class:
                pooled = {"class": self.weights["time_cls_token"][0, 0] + table[0]} | pooled
            for number in range(self.spec.time_depth):
                pooled = self.block(f"time_blocks.{number}.", pooled)
            return seen | {"pooled": self.with_pooled(self.normed("time_norm.", pooled))["pooled"]}
        return seen | {"pooled": torch.stack(list(pooled.values())).mean(dim=0)}

    def with_pooled(self, tokens: Tokens) -> Tokens:
        rest = {key: token for key, token in tokens.items() if key != "class"}
        return rest | {"pooled": tokens["class"] if self.has_class else torch.stack(list(rest.values())).mean(dim=0)}

    def block(self, name: str, tokens: Tokens) -> Tokens:
        everywhere = [list(tokens)]
        if self.spec.model == "factorised_self_attention":
            for part, groups in (("", self.together(tokens, 0)), ("temporal_", self.together(tokens, 1))):
                normed = self.normed(f"{name}{part}norm1.", tokens)
                learnt = self.attend_in(f"{name}{part}attn.", normed, [groups] * self.spec.heads)
                tokens = {key: tokens[key] + learnt[key] for key in tokens}
        else:
            groups = [everywhere] * self.spec.heads
            if self.spec.model == "factorised_dot_product":
                half = self.spec.heads // 2
                groups = [self.together(tokens, 1)] * half + [self.together(tokens, 0)] * half
            learnt = self.attend_in(f"{name}attn.", self.normed(f"{name}norm1.", tokens), groups)
            tokens = {key: tokens[key] + learnt[key] for key in tokens}
        return self.perceive(name, tokens)

    @staticmethod
    def together(tokens: Tokens, axis: int) -> list[list[object]]:
        """Return the groups of keys of one step (axis 0) or of one place (axis 1)."""
        groups: dict[object, list[object]] = {}
        for step, row, column in tokens:  # type: ignore[misc]
            groups.setdefault((row, column) if axis else step, []).append((step, row, column))
        return list(groups.values())

    def attend_in(self, name: str, tokens: Tokens, groups: list[list[list[object]]]) -> Tokens:
        """Attend within groups of tokens, which differ by head."""
        width, dim = self.spec.dim // self.spec.heads, self.spec.dim
        projected = {key: self.linear(f"{name}qkv.", token) for key, token in tokens.items()}
        found: dict[object, list[Tensor]] = {key: [] for key in tokens}
        for head, of_head in enumerate(groups):
            query, key_, value = (slice(at + head * width, at + (head + 1) * width) for at in (0, dim, 2 * dim))
            for group in of_head:
                for asking in group:
                    scores = [projected[asking][query] @ projected[other][key_] / sqrt(width) for other in group]
                    shares = torch.stack(scores).softmax(dim=0)
                    found[asking].append(shares @ torch.stack([projected[other][value] for other in group]))
        return {key: self.linear(f"{name}proj.", torch.cat(heads)) for key, heads in found.items()}

    def perceive(self, name: str, tokens: Tokens) -> Tokens:
        def widened(token: Tensor) -> Tensor:
            wide = self.linear(f"{name}mlp.fc1.", token)
            curved = wide * (1 + torch.tanh(sqrt(2 / pi) * (wide + 0.044715 * wide**3))) / 2
            return self.linear(f"{name}mlp.fc2.", curved)

        return {key: tokens[key] + widened(token) for key, token in self.normed(f"{name}norm2.", tokens).items()}
