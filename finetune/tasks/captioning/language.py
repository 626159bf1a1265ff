"""GPT-2 (Radford et al. 2019) with cross-attention to the memory after each self-attention.

The network is that of transformers; published weights are matched by name and shape, and only the cross-attention is
initialised randomly.
Legend: B texts, L tokens of each, M tokens of the memory, D features, V tokens of the vocabulary, R rows of texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import LongTensor, Tensor, nn
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.core.reading import read_object
from trichord.core.wheels import make_importable
from trichord.finetune.tasks.captioning.spec import LanguageSpec, find_file
from trichord.pretrain.weights.file import read_tensors
from trichord.pretrain.weights.naming import shortened

make_importable()
from transformers import DynamicCache, EncoderDecoderCache, GPT2Config, GPT2Model  # noqa: E402

_CROSS_ATTENTION = (".crossattention.", ".ln_cross_attn.")  # in names of parameters that a text-only GPT-2 lacks
# Ignored entries of older transformers files: causal masks, and a copy of the token embedding.
_IGNORED = (
    *(f".{each}.{mask}" for each in ("attn", "crossattention") for mask in ("bias", "masked_bias")),
    "lm_head.weight",
)
_MOST_OF_CONFIG = 1 << 20
_SIZES = {
    "n_embd": "dim",
    "n_layer": "depth",
    "n_head": "heads",
    "n_positions": "positions",
    "vocab_size": "vocabulary",
}


class Language(nn.Module):
    """A module from previous tokens and memory to scores of the next token; output and token embeddings are tied."""

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__()
        self.gpt2 = GPT2Model(
            GPT2Config(
                **{theirs: getattr(spec, ours) for theirs, ours in _SIZES.items()},
                resid_pdrop=spec.dropout,
                embd_pdrop=spec.dropout,
                attn_pdrop=spec.dropout,
                add_cross_attention=True,
                bos_token_id=None,  # the vocabulary has its own mark
                eos_token_id=None,
            )
        )

    def forward(self, tokens_BL: Tensor, memory_BMD: Tensor, cache: EncoderDecoderCache | None = None) -> Tensor:
        """Return scores_BLV of the successor of each token; with a cache, which grows, pass only new tokens."""
        seen_BLD = self.gpt2(
            input_ids=tokens_BL,
            encoder_hidden_states=memory_BMD,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return functional.linear(seen_BLD, self.gpt2.wte.weight)


class DecoderState:
    """Texts decoded token by token, each with its memory, with cached keys and values of previous tokens."""

    def __init__(self, language: Language, memory_RMD: Tensor) -> None:
        self._language, self._memory_RMD = language, memory_RMD
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def __call__(self, tokens_R: Tensor) -> Tensor:
        """Append a token to each text; return scores_RV of the next token."""
        scores_R1V: Tensor = self._language(tokens_R[:, None], self._memory_RMD, self._cache)
        return scores_R1V[:, 0].float()

    def follow(self, rows_R: Tensor) -> None:
        """Continue each text from the text of another row with the same memory."""
        self._cache.self_attention_cache.reorder_cache(cast(LongTensor, rows_R))


def load_language(language: Language, spec: LanguageSpec) -> list[str]:
    """Load published weights strictly; return log lines that describe the result."""
    assert spec.weights is not None
    _check_sizes(find_file(spec.weights, "config.json"), spec)
    path = find_file(spec.weights, "model.safetensors")
    offered = {
        name.removeprefix("transformer."): tensor
        for name, tensor in read_tensors(path).items()
        if not name.endswith(_IGNORED)
    }
    places = language.gpt2.state_dict(keep_vars=True)
    wanted = {name for name in places if not any(mark in name for mark in _CROSS_ATTENTION)}
    missing = sorted(name for name in wanted if name not in offered)
    unexpected = sorted(name for name in offered if name not in places or not _fits(offered[name], places[name]))
    if missing or unexpected:
        raise UserError(
            f"{path} does not contain a GPT-2: missing: {shortened(missing) or 'none'}; unknown name or wrong shape: "
            f"{shortened(unexpected) or 'none'}"
        )
    with torch.no_grad():
        for name, tensor in offered.items():
            places[name].copy_(tensor)
    new = [name for name in places if name not in offered]
    return [f"language: {len(offered)} tensors of {spec.weights}", f"random init: {len(new)} of the cross-attention"]


def _fits(tensor: Tensor, place: Tensor) -> bool:
    return tensor.shape == place.shape and tensor.is_floating_point() == place.is_floating_point()


def _check_sizes(path: Path, spec: LanguageSpec) -> None:
    config = read_object(path, "Next: download it again")
    if config.get("model_type") != "gpt2":
        raise UserError(f"{path} has model_type {config.get('model_type')}, expected gpt2")
    other = {ours: config.get(theirs) for theirs, ours in _SIZES.items() if config.get(theirs) != getattr(spec, ours)}
    if other:
        settings = " ".join(f"objective.language.{name}={value}" for name, value in other.items())
        raise UserError(f"{path} is a GPT-2 of another size. Set {settings}")
