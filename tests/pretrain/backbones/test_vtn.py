"""VTN equals timm with Hugging Face's Longformer, forward and backward, with weights loaded by our table."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import LongformerConfig, LongformerModel

from trichord.core.errors import UserError
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.backbones.vtn.model import Vtn
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.engine.rehearsal import count_flops
from trichord.pretrain.weights.load import load_tensors

SMALL = VtnSpec(
    frame_backbone="test_resnet", size=32, depth=2, heads=4, mlp_ratio=2.0, window=4, positions=48, dropout=0.0
)
DIM = 96  # the same as in test_resnet
INIT = InitFrom(path=Path("weights.pth"))


def small(**changes: object) -> VtnSpec:
    return VtnSpec.model_validate(SMALL.model_dump() | changes)


def randomise(module: nn.Module) -> None:
    """Randomise a network so that no parameter is zero or one by design."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def with_random_weights(spec: VtnSpec) -> Vtn:
    torch.manual_seed(0)
    backbone = spec.build()
    assert isinstance(backbone, Vtn)
    randomise(backbone.blocks)
    randomise(backbone.sum)
    return backbone


def clip(frames: int = 11, batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


class ReleasedVtn(nn.Module):
    """The parts of the released code: timm's network, a class token, Hugging Face's Longformer and a head."""

    def __init__(self, spec: VtnSpec, padding: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.padding = padding
        self.backbone = timm.create_model(spec.frame_backbone, num_classes=0)
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
        config = LongformerConfig(
            attention_window=[spec.window] * spec.depth,
            hidden_size=DIM,
            num_hidden_layers=spec.depth,
            num_attention_heads=spec.heads,
            intermediate_size=int(DIM * spec.mlp_ratio),
            max_position_embeddings=spec.positions,
            pad_token_id=spec.positions - 1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.temporal_encoder = LongformerModel(config, add_pooling_layer=False)
        self.temporal_encoder.embeddings.word_embeddings = None
        randomise(self.temporal_encoder)
        self.mlp_head = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.GELU(), nn.Linear(DIM, 5))

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Return the output of the Longformer for the class token and each frame."""
        batch, _, frames = frames_BCTHW.shape[:3]
        seen_BTD = self.backbone(frames_BCTHW.transpose(1, 2).flatten(0, 1)).view(batch, frames, -1)
        tokens_BLD = torch.cat((self.cls_token.expand(batch, 1, -1), seen_BTD), dim=1)
        tokens_BLD = nn.functional.pad(tokens_BLD, (0, 0, 0, self.padding), value=-1.0)
        length = self.temporal_encoder.config.max_position_embeddings
        positions = [length - 2, *range(frames), *[length - 1] * self.padding]
        mask = [2, *[1] * frames, *[0] * self.padding]
        kinds = [1, *[0] * (frames + self.padding)]
        output = self.temporal_encoder(
            inputs_embeds=tokens_BLD,
            attention_mask=torch.tensor([mask] * batch),
            position_ids=torch.tensor([positions] * batch),
            token_type_ids=torch.tensor([kinds] * batch),
        )
        return output.last_hidden_state[:, : 1 + frames]


@pytest.mark.parametrize(
    ("frames", "window", "padding"),
    [(11, 4, 0), (11, 4, 4), (9, 4, 2), (1, 4, 2), (7, 8, 0), (5, 16, 26)],
)
def test_it_equals_timm_and_longformer_for_any_padding(frames: int, window: int, padding: int) -> None:
    spec = small(window=window)
    theirs = ReleasedVtn(spec, padding).eval()
    ours = Vtn(spec).eval()
    found = load_tensors(theirs.state_dict(), INIT.model_copy(update={"allow_unused": ["classifier.*"]}), ours)
    assert (found.missing, found.resized) == ([], [])
    assert all(name.startswith("classifier.") for name in found.unused)
    frames_BCTHW = clip(frames).requires_grad_()
    tokens = ours(frames_BCTHW)
    mine = torch.cat((tokens.pooled_BD.unsqueeze(1), tokens.grid_BtnD.squeeze(2)), dim=1)
    yours = theirs(frames_BCTHW)
    torch.testing.assert_close(mine, yours, atol=1e-5, rtol=0)
    direction = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad(each, frames_BCTHW, direction)[0] for each in (mine, yours)]
    assert gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["local", "full"])
def test_receptive_field_of_frames(attention: str) -> None:
    backbone = with_random_weights(small(attention=attention, depth=1)).eval()
    seen_BLD = torch.randn(1, 12, DIM, generator=torch.Generator().manual_seed(3)).requires_grad_()
    learnt_BLD = backbone.blocks[0](seen_BLD)
    for asking in range(12):
        (gradient_BLD,) = torch.autograd.grad(learnt_BLD[0, asking].square().sum(), seen_BLD, retain_graph=True)
        looked_at = {number for number in range(12) if gradient_BLD[0, number].any()}
        near = {0, *range(max(asking - 2, 1), min(asking + 3, 12))}
        assert looked_at == (set(range(12)) if attention == "full" or asking == 0 else near)


def test_full_attention_equals_local_attention_with_a_full_window() -> None:
    local = with_random_weights(small(window=40)).eval()
    full = with_random_weights(small(attention="full")).eval()
    for one, other in zip(local(clip(19)), full(clip(19)), strict=True):
        torch.testing.assert_close(one, other)


def test_work_grows_with_the_number_of_frames_and_not_with_its_square() -> None:
    with torch.device("meta"):
        blocks = {attention: Vtn(small(attention=attention)).blocks[0].attn for attention in ("local", "full")}
        costs = {
            name: [count_flops(lambda b=b, n=n: b(torch.empty(1, n, DIM))) for n in (401, 801, 1601)]
            for name, b in blocks.items()
        }
    assert costs["local"][2] - costs["local"][1] == pytest.approx(2 * (costs["local"][1] - costs["local"][0]), rel=0.01)
    assert costs["full"][2] - costs["full"][1] > 3 * (costs["full"][1] - costs["full"][0])


def test_positions_follow_the_frames_and_never_wrap() -> None:
    backbone = Vtn(small(position_step=9))
    device = torch.device("cpu")
    assert backbone.positions(6, device).tolist() == [46, 0, 9, 18, 27, 36, 45]
    spread = backbone.positions(30, device).tolist()
    assert (spread[0], spread[1], spread[-1]) == (46, 0, 45)
    assert spread[1:] == sorted(set(spread[1:]))


def test_vit_of_each_frame_accepts_any_size() -> None:
    spec = small(frame_backbone="test_vit", size=32, heads=2)
    backbone = Vtn(spec).eval()
    assert backbone.dim == 64
    tokens = backbone(clip(3, size=48))
    assert (tokens.pooled_BD.shape, tokens.grid_BtnD.shape) == ((2, 64), (2, 3, 1, 64))
    larger = Vtn(small(frame_backbone="test_vit", size=48, heads=2))
    found = load_tensors({f"backbone.{name}": each for name, each in backbone.state_dict().items()}, INIT, larger)
    assert found.resized == ["backbone.frames.pos_embed from 1x5x64 to 1x10x64"]


def test_frame_network_is_initialised_from_an_image_vit() -> None:
    spec = small(frame_backbone="test_vit", size=32, heads=2)
    images, fresh = Vtn(spec).frames, Vtn(spec)
    init = INIT.model_copy(update={"allow_missing": ("*.cls_token", "*.sum.*", "*.blocks.?.*")})
    found = load_tensors(images.state_dict(), init, fresh)
    assert len(found.taken) == len(images.state_dict())
    for name, tensor in fresh.frames.state_dict().items():
        assert torch.equal(tensor, images.state_dict()[name])


def test_positions_of_a_larger_size_are_adapted_as_at_run_time() -> None:
    larger, fresh = (Vtn(small(frame_backbone="test_vit", size=size, heads=2)).eval() for size in (96, 48))
    load_tensors({f"backbone.{name}": each for name, each in larger.state_dict().items()}, INIT, fresh)
    frames_BCTHW = clip(3, size=48)
    torch.testing.assert_close(fresh(frames_BCTHW).pooled_BD, larger(frames_BCTHW).pooled_BD)


@pytest.mark.parametrize("attention", ["local", "full"])
def test_pooled_only_is_the_same(attention: str) -> None:
    backbone = with_random_weights(small(attention=attention)).eval()
    whole, alone = (backbone(clip(), pooled_only) for pooled_only in (False, True))
    assert (whole.grid_BtnD.shape[2], alone.grid_BtnD.shape[2]) == (1, 0)
    torch.testing.assert_close(alone.pooled_BD, whole.pooled_BD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frame_backbone", ["test_resnet", "test_vit"])
def test_activation_checkpointing_keeps_gradients(frame_backbone: str) -> None:
    results = []
    for forgets in (False, True):
        spec = small(frame_backbone=frame_backbone, drop_path=0.5, dropout=0.3, activation_checkpointing=forgets)
        backbone = with_random_weights(spec).train()
        frames_BCTHW = clip().requires_grad_()
        torch.manual_seed(6)
        loss = backbone(frames_BCTHW).pooled_BD.square().mul(torch.arange(1.0, 1 + backbone.dim)).sum()
        results.append(torch.autograd.grad(loss, [frames_BCTHW, *backbone.parameters()], allow_unused=True))
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_dropout_is_active_in_training_only() -> None:
    backbone = with_random_weights(small(dropout=0.5))
    backbone.frames.eval()
    seen = {training: [] for training in (True, False)}
    for training in seen:
        for part in (backbone.sum, backbone.blocks):
            part.train(training)
        seen[training] = [backbone(clip()).pooled_BD for _ in range(2)]
    assert torch.equal(*seen[False])
    assert not torch.allclose(*seen[True])


def test_bf16_is_close_to_fp32() -> None:
    backbone = with_random_weights(SMALL).eval()
    exact = backbone(clip())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(clip())
    for one, other in zip(rounded, exact, strict=True):
        assert nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


@pytest.mark.parametrize("attention", ["local", "full"])
def test_temporal_network_compiles_to_one_graph(attention: str) -> None:
    block = with_random_weights(small(attention=attention)).eval().blocks[0]
    seen_BLD = torch.randn(2, 12, DIM, generator=torch.Generator().manual_seed(3))
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(seen_BLD), block(seen_BLD))


def test_layers_are_numbered_from_the_frame_network_to_the_temporal_network() -> None:
    backbone = Vtn(small(frame_backbone="test_vit", heads=2))
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert layers["frames.patch_embed.proj.weight"] == 0
    assert layers["frames.blocks.0.norm1.weight"] == 1
    of_frames = max(layer for name, layer in layers.items() if name.startswith("frames."))
    assert layers["cls_token"] == layers["sum.positions.weight"] == of_frames + 1
    assert layers["blocks.0.norm1.weight"] == of_frames + 2
    assert layers["blocks.1.mlp.fc2.bias"] == backbone.layers - 1


def test_every_temporal_parameter_is_initialised() -> None:
    backbone = Vtn(SMALL)
    over_frames = [parameter for name, parameter in backbone.named_parameters() if not name.startswith("frames.")]
    with torch.no_grad():
        for parameter in over_frames:
            parameter.fill_(torch.nan)
    backbone.initialise()
    assert not [parameter for parameter in over_frames if parameter.isnan().any()]


def test_names_unknown_to_timm_are_refused_with_similar_ones() -> None:
    with pytest.raises(UserError, match="resnet50"):
        Vtn(small(frame_backbone="resnet_50"))


def test_heads_that_do_not_divide_the_features_of_a_frame_are_refused() -> None:
    with pytest.raises(UserError, match=r"test_resnet has 96 features, which is not a multiple of backbone\.heads=5"):
        Vtn(small(heads=5))


def test_odd_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected an even window, half before a frame and half after, found 5"):
        small(window=5)
