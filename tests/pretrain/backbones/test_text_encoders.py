"""Text encoders: the outputs of transformers for any padding, and the tokens and weights of CLIP."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import open_clip
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, T5Config

from trichord.core.errors import UserError
from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.clip_text.model import _LONGEST_TOKEN, ClipText
from trichord.pretrain.backbones.transformers_text import TransformersTextSpec
from trichord.pretrain.backbones.transformers_text.model import TransformersText
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import load_text

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "opens", "the", "box"]
TEXTS = ["a person opens the box", "a box", "the person"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_each_text_in_a_batch_equals_transformers_on_it_alone(pool: str, saved: Path) -> None:
    spec = TransformersTextSpec.model_validate({"path": str(saved), "pool": pool, "length": 12})
    ours = spec.build().eval()
    ours.load_own()
    theirs, tokenizer = BertModel.from_pretrained(saved).eval(), BertTokenizerFast.from_pretrained(saved)
    found = ours(ours.tokenise(TEXTS))
    for text, row in zip(TEXTS, found, strict=True):
        tokens_LD = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = {"mean": tokens_LD.mean(dim=0), "first": tokens_LD[0], "last": tokens_LD[-1]}[pool]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    assert ours.dim == 16


def test_long_text_is_truncated(saved: Path) -> None:
    ours = TransformersText(TransformersTextSpec(path=str(saved), length=4))
    assert ours.tokenise(TEXTS).tolist() == [[2, 5, 6, 3], [2, 5, 9, 3], [2, 8, 6, 3]]


def test_layers_are_numbered_from_the_embeddings(saved: Path) -> None:
    ours = TransformersText(TransformersTextSpec(path=str(saved)))
    layers = {name: ours.layer_of(name) for name, _ in ours.named_parameters()}
    assert layers["model.embeddings.word_embeddings.weight"] == layers["model.embeddings.LayerNorm.bias"] == 0
    assert layers["model.encoder.layer.1.output.dense.weight"] == 2
    assert ours.layers == 4
    assert not any(each.requires_grad for name, each in ours.named_parameters() if "pooler" in name)


def test_model_that_is_not_a_text_encoder_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text_backbone.path=.*nowhere.*Expected a folder with config.json"):
        TransformersText(TransformersTextSpec(path=str(tmp_path / "nowhere")))
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a t5, which has an encoder and a decoder"):
        TransformersText(TransformersTextSpec(path=str(tmp_path)))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((saved / name).read_bytes())
    torch.save({}, tmp_path / "bare" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model.safetensors"):  # and a pickle is not loaded
        TransformersText(TransformersTextSpec(path=str(tmp_path / "bare"))).load_own()


def test_clip_tokens_equal_those_of_open_clip() -> None:
    ours = ClipText(ClipTextSpec(dim=8, depth=1, heads=1, joint_dim=8, length=8))
    texts = ["A person opening a box", "", "one two three four five six seven eight nine"]
    found = ours.tokenise(texts)
    assert torch.equal(found, open_clip.tokenize(texts, context_length=8))
    assert ours(found).shape == (3, 8)
    small = ClipText(ClipTextSpec(dim=8, depth=1, heads=1, joint_dim=8, vocabulary=50))
    with pytest.raises(UserError, match=r"text_backbone.vocabulary is 50, but CLIP's tokenizer has 49408 tokens"):
        small.tokenise(texts)


def test_clip_tokens_of_a_long_text_are_found_in_little_time() -> None:
    encoder = ClipText(ClipTextSpec(dim=8, depth=1, heads=1, joint_dim=8))
    words = [" ".join(["blackandwhitephotography"] * 90), "a person \n\t " * 400, " " * 5000 + "box", "!" * 3000]
    assert torch.equal(encoder.tokenise(words), open_clip.tokenize(words))
    longest = max(
        len(token.removesuffix("</w>")) for token in open_clip.tokenizer._tokenizer.encoder if token.isascii()
    )
    assert longest == _LONGEST_TOKEN
    began_s = time.thread_time()
    encoder.tokenise(["".join(chr(97 + number * number % 26) for number in range(100_000))])
    assert time.thread_time() - began_s < 10  # without a cut, minutes


def test_text_encoder_is_loaded_from_a_clip_file(tmp_path: Path) -> None:
    vision = {"image_size": 8, "patch_size": 4, "width": 64, "layers": 1}
    text = {"context_length": 9, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    theirs = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    ours = ClipText(ClipTextSpec(dim=64, depth=2, heads=1, joint_dim=32, length=9)).eval()
    found = load_text(InitFrom(path=tmp_path / "clip.pt"), ours)
    assert (found.missing, found.unused) == ([], [])
    tokens_KL = ours.tokenise(["a box", "a person waves"])
    torch.testing.assert_close(ours(tokens_KL), theirs.encode_text(tokens_KL), atol=1e-5, rtol=0)
    only_eyes = {name: each for name, each in theirs.state_dict().items() if name.startswith("visual.")}
    torch.save(only_eyes, tmp_path / "eyes.pt")
    with pytest.raises(UserError, match="weights without a text encoder"):
        load_text(InitFrom(path=tmp_path / "eyes.pt"), ours)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 1 << 40}, "has a config.json of 1099511627776 layers of 16 features"),
        ({"num_hidden_layers": "2"}, "text_backbone.path="),
        ({"vocab_size": 1 << 24}, r"has a config.json of 268,\d+,\d+ parameters, but weights of 13,\d+"),
        ({"num_attention_heads": 0}, "text_backbone.path="),
        ({"hidden_act": "no such"}, "text_backbone.path="),
        ({"model_type": None}, "text_backbone.path="),
        ({"num_hidden_layers": 3}, r"lacks weights of its model: encoder\.layer\.2\."),
    ],
)
def test_forged_config_is_refused_before_it_takes_memory(
    changes: dict[str, object], reason: str, saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=reason):
        TransformersText(TransformersTextSpec(path=str(tmp_path))).load_own()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_damaged_file_of_a_text_encoder_is_a_message(name: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for content in (b"\xff\x00", b"[" * 50_000, (saved / name).read_bytes()[:-3]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            TransformersText(TransformersTextSpec(path=str(tmp_path))).load_own()
