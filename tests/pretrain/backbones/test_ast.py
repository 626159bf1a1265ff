"""AST equals Hugging Face's, forward and backward, and loads every published file with all of its naming schemes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification, ASTModel

from trichord.pretrain.backbones.ast import AstSpec
from trichord.pretrain.backbones.ast.model import Ast, positions_cut_or_between
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import families, load_published, load_tensors

SMALL = AstSpec(
    frames=20, mels=12, dim=16, depth=2, heads=2, mlp_ratio=2.0, patch=4, time_stride=3, mel_stride=2, drop_path=0.0
)
FILE = InitFrom(path=Path("ast.pth"), allow_unused=("classifier.*",))
UNDER = "audio_spectrogram_transformer."


def small(seed: int = 0, **changes: object) -> Ast:
    torch.manual_seed(seed)
    backbone = AstSpec.model_validate(SMALL.model_dump() | changes).build()
    assert isinstance(backbone, Ast)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone


def sound(frames: int = 20, mels: int = 12) -> Tensor:
    return torch.randn(2, frames, mels, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [ASTForAudioClassification, ASTModel])
def test_it_equals_hugging_face_with_weights_from_a_file(tmp_path: Path, kind: type[nn.Module]) -> None:
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=4,
        frequency_stride=2, time_stride=3, max_length=20, num_mel_bins=12, num_labels=5,
    )  # fmt: skip
    torch.manual_seed(2)
    theirs = kind(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = small().eval()
    found = load_published(FILE.model_copy(update={"path": tmp_path}), ours)
    assert (found.missing, found.resized, len(found.taken)) == ([], [], len(ours.state_dict()))
    audio_BTM = sound().requires_grad_()
    tokens = ours(audio_BTM)
    base = theirs.audio_spectrogram_transformer if isinstance(theirs, ASTForAudioClassification) else theirs
    answer = base(audio_BTM)
    expected = (answer.pooler_output, answer.last_hidden_state[:, 2:].unflatten(1, (5, 6)).transpose(1, 2))
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(each.shape, generator=generator) for each in expected]
    for one, other in zip(tokens, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(each, audio_BTM, directions)[0] for each in (tokens, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def published(old: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the AudioSet file with the names of transformers 4 or 5: 1214 positions, 527 classes."""
    layer = "encoder.layer.{}." if old else "layers.{}."
    attention = "attention.attention." if old else "attention."
    maps = {f"{attention}{part if old else f'{part[0]}_proj'}": (768, 768) for part in ("query", "key", "value")}
    maps |= {"attention.output.dense" if old else "attention.o_proj": (768, 768)}
    maps |= {"intermediate.dense" if old else "mlp.fc1": (3072, 768), "output.dense" if old else "mlp.fc2": (768, 3072)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 768),
        "embeddings.distillation_token": (1, 1, 768),
        "embeddings.position_embeddings": (1, 1214, 768),
        "embeddings.patch_embeddings.projection.weight": (768, 1, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (768,),
    }
    for block in range(12):
        for name, shape in maps.items():
            shapes |= {f"{layer.format(block)}{name}.weight": shape, f"{layer.format(block)}{name}.bias": shape[:1]}
        for norm in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer.format(block)}{norm}.{leaf}": (768,) for leaf in ("weight", "bias")}
    shapes |= {f"layernorm.{leaf}": (768,) for leaf in ("weight", "bias")}
    return shapes


def published_with_classifier(old: bool) -> dict[str, tuple[int, ...]]:
    shapes = {f"{UNDER}{name}": shape for name, shape in published(old).items()}
    shapes |= {f"classifier.layernorm.{leaf}": (768,) for leaf in ("weight", "bias")}
    return shapes | {"classifier.dense.weight": (527, 768), "classifier.dense.bias": (527,)}


def released() -> dict[str, tuple[int, ...]]:
    """Return the shapes of AST's own AudioSet file, including DeiT's image classifiers."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "dist_token": (1, 1, 768),
        "pos_embed": (1, 1214, 768),
        "patch_embed.proj.weight": (768, 1, 16, 16),
        "patch_embed.proj.bias": (768,),
    }
    linear = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    for block in range(12):
        for name, shape in linear.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{leaf}": (768,) for leaf in ("weight", "bias")}
    shapes |= {"norm.weight": (768,), "norm.bias": (768,)}
    for head in ("head", "head_dist"):
        shapes |= {f"{head}.weight": (1000, 768), f"{head}.bias": (1000,)}
    classifier = {"0.weight": (768,), "0.bias": (768,), "1.weight": (527, 768), "1.bias": (527,)}
    return {f"module.v.{name}": shape for name, shape in shapes.items()} | {
        f"module.mlp_head.{name}": shape for name, shape in classifier.items()
    }


@pytest.mark.parametrize(
    ("manifest", "family", "classifier"),
    [
        (published(old=True), "AST of Hugging Face, no classifier", 0),
        (published(old=False), "AST of Hugging Face, no classifier", 0),
        (published_with_classifier(old=True), "AST of Hugging Face", 4),
        (published_with_classifier(old=False), "AST of Hugging Face", 4),
        (released(), "AST", 4),
    ],
    ids=["old names, base", "new names, base", "old names", "new names", "released"],
)
def test_published_files_match_one_family_and_load_strictly(
    manifest: dict[str, tuple[int, ...]], family: str, classifier: int
) -> None:
    assert [each.name for each in families() if each.matches(manifest)] == [family]
    file = {name: torch.empty(shape, device="meta") for name, shape in manifest.items()}
    with torch.device("meta"):
        backbone = AstSpec().build()
    found = load_tensors(file, FILE, backbone)
    assert (found.missing, found.resized, len(found.unused)) == ([], [], classifier)
    assert len(found.taken) == len(list(backbone.parameters()))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 86_187_264


def test_new_names_are_those_of_current_hugging_face() -> None:
    with torch.device("meta"):
        theirs = ASTForAudioClassification(ASTConfig(num_labels=527))
    assert {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()} == published_with_classifier(
        old=False
    )


def test_positions_are_cropped_for_shorter_and_resized_for_longer_sound() -> None:
    table_1DMT = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]).view(1, 1, 2, 4)
    assert positions_cut_or_between(table_1DMT, 2, 2).flatten().tolist() == [1, 2, 5, 6]
    assert positions_cut_or_between(table_1DMT, 2, 8)[0, 0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert positions_cut_or_between(table_1DMT, 4, 4)[0, 0, :, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("frames", [11, 41])
def test_file_for_another_length_is_adapted_as_at_run_time(frames: int) -> None:
    other, fresh = small().eval(), small(seed=5, frames=frames).eval()
    found = load_tensors(other.state_dict(), FILE, fresh)
    assert len(found.resized) == 1
    for one, two in zip(fresh(sound(frames)), other(sound(frames)), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("distilled", [True, False])
def test_it_can_be_initialised_from_an_image_network(distilled: bool) -> None:
    tensors = {name: torch.randn(tensor.shape) for name, tensor in small().state_dict().items()}
    tensors |= {
        "patch_embed.proj.weight": torch.randn(16, 3, 4, 4),
        "pos_embed": torch.randn(1, 1 + distilled + 49, 16),
    }
    if not distilled:
        del tensors["dist_token"]
    ours = small()
    found = load_tensors(tensors, FILE, ours)
    assert (found.missing, found.unused) == ([], [])
    grey_BTM, colours_BCMT = sound(), sound().transpose(1, 2).unsqueeze(1).expand(-1, 3, -1, -1)
    seen = [
        ours.patch_embed["proj"](grey_BTM.transpose(1, 2).unsqueeze(1)),
        nn.functional.conv2d(
            colours_BCMT, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=(2, 3)
        ),
    ]
    torch.testing.assert_close(*seen)
    assert torch.equal(ours.dist_token, tensors["dist_token" if distilled else "cls_token"])
    square = tensors["pos_embed"][0, 1 + distilled :].view(7, 7, 16)
    assert torch.equal(ours.pos_embed[0, 2:].view(5, 6, 16), square[1:6, 0:6])


def test_activation_checkpointing_keeps_gradients() -> None:
    results = []
    for forgets in (False, True):
        backbone = small(drop_path=0.5, activation_checkpointing=forgets).train()
        torch.manual_seed(6)
        pooled_BD = backbone(sound(), pooled_only=True).pooled_BD
        results.append(torch.autograd.grad(pooled_BD.square().sum(), list(backbone.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_it_compiles_to_one_graph_and_bf16_is_close_to_fp32() -> None:
    backbone = small(dim=48).eval()
    exact = backbone(sound(32, 14))
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for one, other in zip(compiled(sound(32, 14)), exact, strict=True):
        torch.testing.assert_close(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(sound(32, 14))
    for one, other in zip(rounded, exact, strict=True):
        assert nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


def test_too_short_sound_is_an_error_and_layers_are_numbered() -> None:
    with pytest.raises(ValueError, match="at least 4 frames and mel filters, found 3 and 12"):
        small()(sound(3))
    found = {small().layer_of(name) for name, _ in small().named_parameters()}
    assert found == {0, 1, 2, 3} and small().layers == 4
