"""Captions as numbers: GPT-2's kind of tokenizer, read where it is published or learnt from captions.

Byte-level pair encoding (Radford et al. 2019, section 2.2): any text has tokens, and its tokens give it back. One mark
stands before the first token and behind the last, as in GPT-2's own training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from trichord.core.errors import UserError

MARK = "<|endoftext|>"


class Written(NamedTuple):
    """Captions of a batch as tokens, each with the mark before it and, if it was not cut, behind it."""

    tokens_BL: Tensor  # filled up with the mark; what is beyond a caption's length means nothing
    lengths_B: list[int]  # with the marks; 0 where there is no caption
    cut: int  # captions that were longer


class Vocabulary:
    """A tokenizer and the number of its mark."""

    def __init__(self, tokenizer: Tokenizer, origin: str) -> None:
        mark = tokenizer.token_to_id(MARK)
        if mark is None:
            raise UserError(f"{origin} has no token {MARK}; expected GPT-2's tokenizer, or one of its kind")
        tokenizer.encode_special_tokens = True  # a caption that says the mark's name does not end there
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.mark = tokenizer, int(mark)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @classmethod
    def learn(cls, captions: Iterable[str], size: int) -> Vocabulary:
        """Learn which pairs to join, the most frequent first; few captions make fewer than `size` tokens."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[MARK], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer, "a tokenizer that was learnt")

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a tokenizer.json."""
        text = path.read_text(encoding="utf-8")
        try:
            is_tokenizer = "model" in json.loads(text)
        except ValueError:
            is_tokenizer = False
        if not is_tokenizer:
            raise UserError(f"{path} holds no tokenizer; expected the tokenizer.json that save_pretrained writes")
        return cls(Tokenizer.from_str(text), str(path))

    @classmethod
    def of_tensor(cls, bytes_N: Tensor) -> Vocabulary:
        """Take back what `to_tensor` gave."""
        return cls(Tokenizer.from_str(bytes_N.numpy().tobytes().decode()), "the checkpoint's tokenizer")

    def to_tensor(self) -> Tensor:
        """Give all of it as bytes, for a checkpoint to keep."""
        return torch.from_numpy(np.frombuffer(self._tokenizer.to_str().encode(), dtype=np.uint8).copy())

    def write(self, captions: Sequence[str], longest: int) -> Written:
        """Cut captions into at most `longest` tokens each."""
        encoded = [each.ids for each in self._tokenizer.encode_batch([plain(caption) for caption in captions])]
        rows = [
            [self.mark, *ids[:longest], *([self.mark] if len(ids) <= longest else [])] if ids else [] for ids in encoded
        ]
        width = max(2, *(len(row) for row in rows)) if rows else 2
        tokens_BL = torch.tensor([row + [self.mark] * (width - len(row)) for row in rows], dtype=torch.int64)
        return Written(tokens_BL, [len(row) for row in rows], sum(len(ids) > longest for ids in encoded))

    def read_out(self, tokens: Sequence[int]) -> str:
        """Give the text of tokens up to the first mark."""
        end = tokens.index(self.mark) if self.mark in tokens else len(tokens)
        return plain(self._tokenizer.decode(list(tokens[:end]), skip_special_tokens=False))


def plain(caption: str) -> str:
    """Let single blanks part words."""
    return " ".join(caption.split())
