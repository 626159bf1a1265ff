"""A text encoder from the transformers library, such as BERT, MPNet or RoBERTa, with its own tokenizer.

Legend: K texts, L tokens of each, D features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.wheels import make_importable
from trichord.pretrain.backbones.base import TextBackbone
from trichord.pretrain.backbones.transformers_text import TransformersTextSpec
from trichord.pretrain.weights.file import SAFETENSORS_FILES, read_tensors
from trichord.pretrain.weights.naming import shortened

T = TypeVar("T")

_NO_TOKEN = -1
_MOST_LAYERS = 1000
_LARGER = 4  # times as many parameters may be in a model as in its file, which may leave out some
_EMBEDDINGS = re.compile(r"\b(?:embeddings?|wte|wpe)\b")


class TransformersText(TextBackbone):
    """A model of transformers. The vector is pooled from the last layer's tokens; the model's pooler is not used."""

    def __init__(self, spec: TransformersTextSpec) -> None:
        super().__init__()
        self.spec = spec
        config = _read("AutoConfig", spec.path)
        if config.is_encoder_decoder:
            raise UserError(
                f"text_backbone.path={spec.path} is a {config.model_type}, which has an encoder and a decoder; "
                "expected a text encoder such as BERT, MPNet or CLIP's"
            )
        _refuse_sizes(config, spec)
        self.model = _attempt(spec.path, lambda: _transformers().AutoModel.from_config(config))
        for name, parameter in self.model.named_parameters():
            if name.startswith("pooler."):  # unused, so it never gets a gradient
                parameter.requires_grad_(False)
        self.dim = int(config.hidden_size)
        self.layers = int(config.num_hidden_layers) + 2
        self._tokenizer = _read("AutoTokenizer", spec.path)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token  # masked in attention

    def load_own(self) -> None:
        if not self.spec.pretrained:
            return
        path = self.spec.path
        found, info = _read("AutoModel", path, use_safetensors=True, output_loading_info=True)
        # The library draws the weights that a file lacks at random.
        if lacking := [name for name in info["missing_keys"] if not name.startswith("pooler.")]:
            raise UserError(
                f"text_backbone.path={path} lacks weights of its model: {shortened(sorted(lacking))}. "
                "Next: download it again"
            )
        self.model.load_state_dict(found.state_dict())

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        cut = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.spec.length, return_tensors="pt"
        )
        tokens_KL: Tensor = cut["input_ids"].masked_fill(cut["attention_mask"] == 0, _NO_TOKEN)
        return tokens_KL

    def layer_of(self, name: str) -> int:
        number = re.search(r"\.(\d+)\.", name)
        if number and not _EMBEDDINGS.search(name):
            return int(number[1]) + 1
        return 0 if _EMBEDDINGS.search(name) else self.layers - 1

    def forward(self, tokens_KL: Tensor) -> Tensor:
        given_KL = tokens_KL != _NO_TOKEN
        output = self.model(input_ids=tokens_KL.clamp_min(0), attention_mask=given_KL.long())
        tokens_KLD: Tensor = output.last_hidden_state
        if self.spec.pool == "first":
            return tokens_KLD[:, 0]
        if self.spec.pool == "last":
            places_L = torch.arange(tokens_KL.shape[1], device=tokens_KL.device)
            last_K11 = (given_KL * places_L).argmax(dim=1).view(-1, 1, 1)
            return tokens_KLD.take_along_dim(last_K11, dim=1).squeeze(1)
        counted_KL1 = given_KL.unsqueeze(2).to(tokens_KLD.dtype)
        return (tokens_KLD * counted_KL1).sum(dim=1) / counted_KL1.sum(dim=1).clamp_min(1)


def _refuse_sizes(config: Any, spec: TransformersTextSpec) -> None:
    """Raise UserError for a config of impossible sizes, or of a larger model than the weights beside it are of."""
    width, layers = (getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers"))
    if not isinstance(width, int) or not isinstance(layers, int) or not 0 < layers <= _MOST_LAYERS or width < 1:
        raise UserError(
            f"text_backbone.path={spec.path} has a config.json of {layers} layers of {width} features, expected at "
            f"most {_MOST_LAYERS}. Next: download it again"
        )
    folder = Path(spec.path)
    if not spec.pretrained or not folder.is_dir():
        return
    if not any((folder / name).is_file() for name in SAFETENSORS_FILES):
        raise UserError(f"text_backbone.path={folder} has no model.safetensors. Next: download it")
    stored = sum(tensor.numel() for tensor in read_tensors(folder).values())
    with torch.device("meta"):
        model = _attempt(spec.path, lambda: _transformers().AutoModel.from_config(config))
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > _LARGER * stored:
        raise UserError(
            f"text_backbone.path={spec.path} has a config.json of {needed:,} parameters, but weights of {stored:,}. "
            "Next: download it again"
        )


def _read(kind: str, path: str, **options: Any) -> Any:
    """Load an object of transformers from a folder or the Hub, without running code from there."""
    return _attempt(
        path, lambda: getattr(_transformers(), kind).from_pretrained(path, trust_remote_code=False, **options)
    )


def _attempt(path: str, make: Callable[[], T]) -> T:
    try:
        return make()
    # Besides OSError and ValueError, the library raises what a damaged config, tokenizer or file leads to in its code.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"text_backbone.path={path}: {reason}. Expected a folder with config.json, "
            "model.safetensors and a tokenizer, as written by save_pretrained, or a name on the Hugging Face Hub "
            "if it can be reached"
        ) from error


def _transformers() -> Any:
    make_importable()  # many of its models import torchvision
    import transformers

    return transformers
