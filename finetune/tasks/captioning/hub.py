"""Finds the files of a published language model, in a folder or by its name on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from trichord.core.errors import UserError


def find_file(weights: str, file: str) -> Path:
    """Return the path of a file; one on the Hub is downloaded, or taken from the cache."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(weights, file)
    except OSError as error:
        raise UserError(
            f"objective.language.weights={weights}: no {file} ({str(error).splitlines()[0]}). Expected a folder with "
            "config.json, model.safetensors and tokenizer.json, as save_pretrained writes them, or a name on the "
            "Hugging Face Hub. Without a network, download it first on a machine that has one (hf download "
            f"{weights}) and set HF_HUB_OFFLINE=1. With objective.language.weights=null a model is trained from "
            "scratch, which needs no files"
        ) from error
    if path is None:
        raise UserError(f"objective.language.weights={weights}: found no {file}")
    return Path(path)


def tokenizer_file(weights: str) -> Path:
    """Return the path of the tokenizer that belongs to published weights."""
    return find_file(weights, "tokenizer.json")
