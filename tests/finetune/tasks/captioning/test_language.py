"""The language model equals transformers' GPT-2; published weights are loaded strictly, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trichord.core.errors import UserError
from trichord.finetune.tasks.captioning.language import Language, load_language
from trichord.finetune.tasks.captioning.spec import LanguageSpec, tokenizer_file
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary

SIZE = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 280}
SPEC = LanguageSpec(dim=16, depth=2, heads=2, positions=40, vocabulary=280, longest=16)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained GPT-2 with a tokenizer, as transformers does."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(**SIZE, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    vocabulary = Vocabulary.learn(["a red cloth", "there is blue all over"], 280)
    (folder / "tokenizer.json").write_bytes(vocabulary.to_tensor().numpy().tobytes())
    return folder


def test_scores_equal_those_of_gpt2_with_cross_attention() -> None:
    torch.manual_seed(0)
    own = Language(SPEC).eval()
    other = GPT2LMHeadModel(GPT2Config(**SIZE, add_cross_attention=True, bos_token_id=0, eos_token_id=0)).eval()
    other.transformer.load_state_dict(own.gpt2.state_dict())
    other.tie_weights()
    tokens_BL, memory_BME = torch.randint(0, 280, (3, 9)), torch.randn(3, 5, 16)
    expected = other(input_ids=tokens_BL, encoder_hidden_states=memory_BME).logits
    torch.testing.assert_close(own(tokens_BL, memory_BME), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(own(tokens_BL, memory_BME.roll(1, dims=0)), expected, atol=1e-3)


def test_published_weights_are_loaded_and_cross_attention_is_initialised(published: Path) -> None:
    torch.manual_seed(2)
    language = Language(SPEC)
    fresh = {name: tensor.clone() for name, tensor in language.gpt2.state_dict().items()}
    lines = load_language(language, SPEC.model_copy(update={"weights": str(published)}))
    theirs = GPT2LMHeadModel.from_pretrained(published).transformer.state_dict()
    for name, tensor in language.gpt2.state_dict().items():
        looks = "cross" in name
        assert torch.equal(tensor, fresh[name] if looks else theirs[name]), name
        assert looks == (name not in theirs)
    assert lines[0] == f"language: {len(theirs)} tensors of {published}"
    assert len(Vocabulary.read(tokenizer_file(str(published)))) > 257


def test_missing_and_unsuitable_files_are_errors(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(folder: Path | str, **changes: int) -> None:
        spec = SPEC.model_copy(update={"weights": str(folder), **changes})
        load_language(Language(spec), spec)

    with pytest.raises(UserError, match=r"Set objective\.language\.depth=2$"):
        loaded(published, depth=1)
    copied = tmp_path / "copied"
    shutil.copytree(published, copied)
    (copied / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        tokenizer_file(str(copied))
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")  # which could be a pickle
    with pytest.raises(UserError, match=r"no model\.safetensors .* trained from scratch, which needs no files"):
        loaded(copied)
    (copied / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="has model_type bert, expected gpt2"):
        loaded(copied)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"weights=nobody/nothing: no config\.json .* HF_HUB_OFFLINE=1"):
        loaded("nobody/nothing")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 100_000, b"[1]", b"null", b"", b'{"model_type": NaN}', b" " * (1 << 20) + b"{}"],
    ids=range(7),
)
def test_damaged_config_and_tokenizer_are_messages(content: bytes, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "copied")
    spec = SPEC.model_copy(update={"weights": str(tmp_path / "copied")})
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "copied" / name).write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json (cannot be read|has model_type)"):
        load_language(Language(spec), spec)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer \(.*\); expected the tokenizer\.json"):
        Vocabulary.read(tmp_path / "copied" / "tokenizer.json")


def test_tokenizer_that_numbers_its_tokens_beyond_the_network_counts_as_so_large(published: Path) -> None:
    path = published / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["model"]["vocab"][max(tree["model"]["vocab"], key=tree["model"]["vocab"].get)] = 1 << 30
    assert len(Vocabulary.of_tensor(torch.tensor(list(json.dumps(tree).encode()), dtype=torch.uint8))) == (1 << 30) + 1
