"""Hugging Face's TimeSformer with the weights of ours, as an independent reference implementation."""

from __future__ import annotations

from torch import Tensor
from transformers import TimesformerConfig, TimesformerModel
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import TimeSformer

ATTENTION_TYPES = {"divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"}
WITHIN_A_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
ELSEWHERE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def hugging_face_name(name: str) -> str:
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    module, _, leaf = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{ELSEWHERE[module]}.{leaf}"
    _, number, within = module.split(".", 2)
    return f"encoder.layer.{number}.{WITHIN_A_BLOCK[within]}.{leaf}"


def hugging_face_twin(ours: TimeSformer) -> TimesformerModel:
    spec = ours.spec
    config = TimesformerConfig(
        image_size=spec.size,
        patch_size=spec.patch,
        num_frames=spec.frames,
        hidden_size=spec.dim,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.heads,
        intermediate_size=int(spec.dim * spec.mlp_ratio),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attention_type=ATTENTION_TYPES[spec.attention],
        drop_path_rate=0,  # an integer in this version, so the rates are set below
    )
    twin = TimesformerModel(config)
    for layer, block in zip(twin.encoder.layer, ours.blocks, strict=True):
        layer.drop_path = TimesformerDropPath(block.drop_path.rate)
    twin.load_state_dict({hugging_face_name(name): tensor for name, tensor in ours.state_dict().items()})
    return twin


def tokens_of(twin: TimesformerModel, spec: TimeSformerSpec, frames_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return its output in our shapes, pooled_BD and grid_BtnD."""
    batch, _, frames = frames_BCTHW.shape[:3]
    output = twin(frames_BCTHW.transpose(1, 2), output_hidden_states=True)
    last = output.last_hidden_state
    if spec.attention == "space":  # unlike the released code, it leaves the mean over frames to its caller
        class_BD = output.hidden_states[-1][:, 0].view(batch, frames, -1).mean(dim=1)
        return twin.layernorm(class_BD), last[:, 1:].view(batch, frames, -1, spec.dim)
    return last[:, 0], last[:, 1:].view(batch, -1, frames, spec.dim).transpose(1, 2)
