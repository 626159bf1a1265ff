"""CLIP's text encoder (Radford et al. 2021): a causal transformer, pooled at the end-of-text token.

Legend: K texts, L tokens of each, D features of a token, E of the space shared with video.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import TextBackbone
from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.layers.transformer import TransformerBlock, draw_by_width, run_block

_NORM_EPS = 1e-5
_LONGEST_TOKEN = 24  # characters, in CLIP's vocabulary; a space may follow
_TOKEN_STD, _POSITION_STD = 0.02, 0.01


class ClipText(TextBackbone):
    """CLIP's text encoder. The end of a text is its token of the highest index, as in CLIP's tokenizer."""

    is_joint = True

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.joint_dim
        self.layers = spec.depth + 2
        self.token_embed = nn.Embedding(spec.vocabulary, spec.dim)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.length, spec.dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(spec.dim, spec.heads, 4 * spec.dim, 0.0, spec.activation, _NORM_EPS, is_causal=True)
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=_NORM_EPS)
        self.proj = nn.Linear(spec.dim, spec.joint_dim, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights."""
        draw_by_width(self)
        nn.init.normal_(self.token_embed.weight, std=_TOKEN_STD)
        nn.init.normal_(self.pos_embed, std=_POSITION_STD)

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        tokenizer = _tokenizer()
        if tokenizer.vocab_size > self.spec.vocabulary:
            raise UserError(
                f"text_backbone.vocabulary is {self.spec.vocabulary}, but CLIP's tokenizer has "
                f"{tokenizer.vocab_size} tokens. Next: text_backbone.vocabulary={tokenizer.vocab_size}"
            )
        # The tokenizer needs time quadratic in the length of a word, and what follows the last token is dropped anyway.
        cut = [" ".join(text.split())[: self.spec.length * (_LONGEST_TOKEN + 1)] for text in texts]
        tokens_KL: Tensor = tokenizer(cut, context_length=self.spec.length)
        return tokens_KL

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in ("token_embed", "pos_embed") else self.layers - 1

    def forward(self, tokens_KL: Tensor) -> Tensor:
        length = tokens_KL.shape[1]
        if length > self.spec.length:
            raise ValueError(f"expected texts of at most {self.spec.length} tokens, found {length}")
        tokens_KLD = self.token_embed(tokens_KL) + self.pos_embed[:, :length]
        for block in self.blocks:
            tokens_KLD = run_block(block, tokens_KLD, recomputes=self.spec.activation_checkpointing)
        ends_K11 = tokens_KL.argmax(dim=1).view(-1, 1, 1)
        last_KD = tokens_KLD.take_along_dim(ends_K11, dim=1).squeeze(1)
        pooled_KE: Tensor = self.proj(self.norm(last_KD))
        return pooled_KE


@cache
def _tokenizer() -> Any:
    """Load CLIP's tokenizer from its module of open_clip alone: the package imports all models, which takes seconds."""
    package = find_spec("open_clip")
    found = PathFinder.find_spec("open_clip.tokenizer", package.submodule_search_locations if package else ())
    if found is None or found.loader is None:
        raise UserError("open_clip, which contains CLIP's tokenizer, is not installed. Next: make setup")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module._tokenizer  # created on import; creating another would take as long again
