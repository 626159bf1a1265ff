"""The loss of captions equals a loop; padding and missing captions have no effect; one batch can be overfitted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.tasks.captioning.small_captions import captions_of, small_captioner, small_config
from trichord.core.errors import UserError
from trichord.finetune.tasks.captioning.model import Captioner, token_losses
from trichord.finetune.tasks.captioning.vocabulary import MARK, Vocabulary
from trichord.pretrain.engine.parameter_groups import GroupRules
from trichord.pretrain.engine.rehearsal import fake_batch, training_flops
from trichord.shards.reading.batch import Batch

CAPTIONS = ["a red cloth", "there is blue all over", "", "nothing but grey, see"]


def batch_of(model: Captioner, captions: list[str]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    batch = fake_batch(model.spec.sample_spec(), len(captions))
    video = [torch.randint(0, 255, view.shape, generator=generator, dtype=torch.uint8) for view in batch.video]
    keys = [f"clip{row}" for row in range(len(captions))]
    return batch.replace(video=video, text=captions, key=keys)


def test_loss_equals_a_loop() -> None:
    model = small_captioner()
    batch = batch_of(model, CAPTIONS)
    memory_BME = model.video(batch.video)
    assert model.vocabulary is not None
    expected = counted = right = 0.0
    for row, caption in enumerate(CAPTIONS):
        tokens = model.vocabulary.write([caption], 16).tokens_BL[0].tolist() if caption else []
        for place in range(1, len(tokens)):
            scores = model.language(torch.tensor([tokens[:place]]), memory_BME[row : row + 1])[0, -1].tolist()
            total = sum(math.exp(score) for score in scores)
            expected -= math.log(math.exp(scores[tokens[place]]) / total) / (len(tokens) - 1) / len(CAPTIONS)
            right += max(range(len(scores)), key=scores.__getitem__) == tokens[place]
            counted += 1
    output = model.training_step(batch, 0)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.health["next_token"].item() == pytest.approx(right / counted)
    assert output.health["without_caption"].item() == 0.25 and output.health["cut"].item() == 0


def test_padding_and_other_samples_have_no_effect() -> None:
    model = small_captioner()
    assert model.vocabulary is not None
    batch = batch_of(model, CAPTIONS)
    memory_BME = model.video(batch.video)
    written = model.vocabulary.write(CAPTIONS, 16)
    nll_B = token_losses(model.language, written, memory_BME).nll_B
    for row, caption in enumerate(CAPTIONS):
        alone = token_losses(model.language, model.vocabulary.write([caption], 16), memory_BME[row : row + 1])
        assert alone.nll_B.item() == pytest.approx(nll_B[row].item(), abs=1e-6)
    places_L = torch.arange(written.tokens_BL.shape[1])
    beyond_BL = places_L >= torch.tensor(written.lengths_B)[:, None]
    assert beyond_BL.any()
    filled = written._replace(tokens_BL=written.tokens_BL.masked_fill(beyond_BL, 7))
    assert torch.equal(token_losses(model.language, filled, memory_BME).nll_B, nll_B)


def test_captions_are_encoded_between_marks_and_decoded() -> None:
    vocabulary = Vocabulary.learn([text for number in range(14) for text in captions_of(number)], 280)
    caption = "Žluťoučký  kůň, 🐎 says <|endoftext|> twice"
    written = vocabulary.write([caption, "a red cloth", ""], 200)
    first, second, _ = written.tokens_BL.tolist()
    assert first[0] == second[0] == vocabulary.mark == first[-1]
    assert first[1:-1].count(vocabulary.mark) == 0
    assert vocabulary.read_out(first[1:]) == "Žluťoučký kůň, 🐎 says <|endoftext|> twice"
    assert written.lengths_B[2] == 0 and set(second[written.lengths_B[1] :]) == {vocabulary.mark}
    cut = vocabulary.write(["a red cloth"], 2)
    assert cut.cut == 1 and cut.lengths_B == [3] and cut.tokens_BL[0].tolist() == second[:3]
    again = Vocabulary.of_tensor(vocabulary.to_tensor())
    assert len(again) == len(vocabulary) <= 280 and again.write([caption], 200).tokens_BL.tolist() == [first]


def test_tokenizer_does_not_depend_on_the_order_of_captions_and_is_loaded_strictly(tmp_path: Path) -> None:
    texts = [text for number in range(14) for text in captions_of(number)]
    one, other = Vocabulary.learn(texts, 280), Vocabulary.learn(texts[::-1], 280)
    assert torch.equal(one.to_tensor(), other.to_tensor())
    path = tmp_path / "tokenizer.json"
    path.write_bytes(one.to_tensor().numpy().tobytes())
    assert len(Vocabulary.read(path)) == len(one)
    path.write_text(path.read_text().replace(MARK, "[END]"))
    with pytest.raises(UserError, match=r"has no token <\|endoftext\|>"):
        Vocabulary.read(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="is not a tokenizer"):
        Vocabulary.read(path)


@pytest.mark.parametrize("tokens", ["pooled", "all"])
def test_memory_is_the_tokens_of_all_clips(tokens: str) -> None:
    clips = {"kind": "segments", "frames": 2, "clips": 3}
    changes = {"objective__clips": clips, "objective__test_clips": clips, "objective__memory": {"tokens": tokens}}
    model = small_captioner(**changes)
    batch = batch_of(model, ["a", "b"])
    memory = model.video
    assert memory.map is not None and memory.clip_embed is not None
    torch.nn.init.normal_(memory.clip_embed)
    expected = []
    for clip, frames_BCTHW in enumerate(batch.video):
        pooled_BD, grid_BtnD = memory.backbone(model.spec.normalisation(frames_BCTHW))
        own_BLD = [pooled_BD[:, None], *([grid_BtnD.flatten(1, 2)] if tokens == "all" else [])]
        expected.append(memory.map(torch.cat(own_BLD, dim=1)) + memory.clip_embed[clip])
    torch.testing.assert_close(memory(batch.video), torch.cat(expected, dim=1), atol=1e-5, rtol=1e-4)


def test_tokens_as_wide_as_the_language_model_need_no_mapping() -> None:
    assert small_captioner(objective__memory={"mapping": "none"}).video.map is None
    with pytest.raises(UserError, match=r"backbone has 16, the language model 32\. Set objective\.memory\.mapping"):
        small_captioner(objective__memory={"mapping": "none"}, objective__language={"dim": 32, "depth": 1, "heads": 2})


def test_only_named_parameters_of_a_frozen_backbone_are_trained() -> None:
    changes: dict[str, Any] = {"objective__frozen": True, "backbone__drop_path": 0.5, "backbone__frames": 2}
    named = small_captioner(**changes, objective__trained=["time_embed"])
    four = {"kind": "segments", "frames": 4}  # more than the rows of the table, which is interpolated
    changes |= {"objective__clips": four, "objective__test_clips": four}
    wider = small_captioner(**changes, objective__trained=["time_embed"])
    for model in (named, wider):
        model.train()
        assert not model.video.backbone.training and model.language.training
        model.training_step(batch_of(model, CAPTIONS), 0).loss.backward()
        learns = {name for name, each in model.video.backbone.named_parameters() if each.grad is not None}
        assert learns == {"time_embed"}
        (group,) = model.parameter_groups(GroupRules(no_decay_one_dimensional=False))
        assert [name for name in group.parameters if "backbone" in name] == ["video.backbone.time_embed"]
    still = small_captioner(objective__frozen=True)
    still.training_step(batch_of(still, CAPTIONS), 0).loss.backward()
    assert all(each.grad is None for each in still.video.backbone.parameters())
    with pytest.raises(UserError, match=r"'time_embet' matches no parameter of the backbone\. Parameter names:"):
        small_captioner(**changes, objective__trained=["time_embet"])


def test_one_batch_can_be_overfitted() -> None:
    model = small_captioner(objective__language={"dim": 32, "depth": 1, "heads": 2, "vocabulary": 280, "dropout": 0.0})
    batch = batch_of(model, ["a red cloth", "there is blue all over", "nothing but grey, see", "a green cloth"])
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.train()
    for step in range(60):
        output = model.training_step(batch, step)
        adam.zero_grad()
        output.loss.backward()
        adam.step()
    assert output.loss.item() < 0.05 and output.health["next_token"].item() == 1.0
    model.eval()
    assert model.generate(batch, seed=0).captions == batch.text


def test_operations_are_counted_for_the_longest_captions() -> None:
    few, many = (training_flops(small_config(Path("nowhere"), objective__language__longest=n), 2) for n in (8, 32))
    assert 1.5 * few < many
