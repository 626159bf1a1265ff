"""Names and shapes of the tensors in released files of CLIP, X-CLIP and VTN, from their sizes alone."""

from __future__ import annotations

from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.backbones.xclip import XClipSpec

Shapes = dict[str, tuple[int, ...]]


def _both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _attention(name: str, dim: int) -> Shapes:
    projections = {f"{name}.in_proj_weight": (3 * dim, dim), f"{name}.in_proj_bias": (3 * dim,)}
    return projections | _both(f"{name}.out_proj", dim, dim)


def _block(name: str, dim: int, messages: bool = False) -> Shapes:
    shapes = _attention(f"{name}.attn", dim) | _both(f"{name}.ln_1", dim) | _both(f"{name}.ln_2", dim)
    shapes |= _both(f"{name}.mlp.c_fc", 4 * dim, dim) | _both(f"{name}.mlp.c_proj", dim, 4 * dim)
    if messages:
        shapes |= _both(f"{name}.message_fc", dim, dim) | _both(f"{name}.message_ln", dim)
        shapes |= _attention(f"{name}.message_attn", dim)
    return shapes


def released_clip(video: XClipSpec, text: ClipTextSpec) -> Shapes:
    """Return the tensors of OpenAI and open_clip; with messages, those that X-CLIP has in the same towers."""
    dim, places = video.dim, (video.size // video.patch) ** 2
    shapes: Shapes = {
        "visual.conv1.weight": (dim, 3, video.patch, video.patch),
        "visual.class_embedding": (dim,),
        "visual.positional_embedding": (1 + places, dim),
        "visual.proj": (dim, video.joint_dim),
        "token_embedding.weight": (text.vocabulary, text.dim),
        "positional_embedding": (text.length, text.dim),
        "text_projection": (text.dim, text.joint_dim),
        "logit_scale": (),
    }
    shapes |= _both("visual.ln_pre", dim) | _both("visual.ln_post", dim) | _both("ln_final", text.dim)
    for block in range(video.depth):
        shapes |= _block(f"visual.transformer.resblocks.{block}", dim, video.messages)
    for block in range(text.depth):
        shapes |= _block(f"transformer.resblocks.{block}", text.dim)
    return shapes


def released_xclip(video: XClipSpec, text: ClipTextSpec) -> Shapes:
    """Return the tensors of a released .pth."""
    joint = video.joint_dim
    shapes = released_clip(video, text)
    shapes |= {"mit.positional_embedding": (1, video.frames, joint)} | _block("mit.resblocks.0", joint)
    shapes |= _both("prompts_visual_ln", video.dim) | _both("prompts_generator.norm", joint)
    shapes |= {"prompts_visual_proj": (video.dim, joint), "prompts_generator.alpha": (joint,)}
    for layer in ("prompts_generator.decoder.0", "prompts_generator.decoder.1"):
        shapes |= {f"{layer}.cross_attn.{part}_proj.weight": (joint, joint) for part in "qkv"}
        shapes |= _both(f"{layer}.cross_attn.proj", joint, joint)
        shapes |= _both(f"{layer}.norm1", joint) | _both(f"{layer}.norm3", joint)
        shapes |= _both(f"{layer}.mlp.0", 4 * joint, joint) | _both(f"{layer}.mlp.3", joint, 4 * joint)
    return shapes


def _hugging_face_attention(name: str, dim: int) -> Shapes:
    shapes: Shapes = {}
    for part in ("q", "k", "v", "out"):
        shapes |= _both(f"{name}.{part}_proj", dim, dim)
    return shapes


def _hugging_face_block(name: str, dim: int, messages: bool = False) -> Shapes:
    shapes = _hugging_face_attention(f"{name}.self_attn", dim)
    shapes |= _both(f"{name}.layer_norm1", dim) | _both(f"{name}.layer_norm2", dim)
    shapes |= _both(f"{name}.mlp.fc1", 4 * dim, dim) | _both(f"{name}.mlp.fc2", dim, 4 * dim)
    if messages:
        shapes |= _both(f"{name}.message_fc", dim, dim) | _both(f"{name}.message_ln", dim)
        shapes |= _hugging_face_attention(f"{name}.message_attn", dim)
    return shapes


def hugging_face_xclip(video: XClipSpec, text: ClipTextSpec) -> Shapes:
    """Return the tensors of a converted checkpoint, including the position ids that older ones have."""
    dim, joint, places = video.dim, video.joint_dim, (video.size // video.patch) ** 2
    vision, texts = "vision_model.embeddings", "text_model.embeddings"
    prompts = {
        name: shape
        for name, shape in released_xclip(video, text).items()
        if name.startswith(("prompts_generator.alpha", "prompts_generator.decoder."))
    }
    shapes: Shapes = {
        f"{vision}.patch_embedding.weight": (dim, 3, video.patch, video.patch),
        f"{vision}.class_embedding": (dim,),
        f"{vision}.position_embedding.weight": (1 + places, dim),
        f"{vision}.position_ids": (1, 1 + places),
        "visual_projection.weight": (joint, dim),
        "mit.position_embedding": (1, video.frames, joint),
        "prompts_visual_projection": (dim, joint),
        f"{texts}.token_embedding.weight": (text.vocabulary, text.dim),
        f"{texts}.position_embedding.weight": (text.length, text.dim),
        f"{texts}.position_ids": (1, text.length),
        "text_projection.weight": (joint, text.dim),
        "logit_scale": (),
    }
    shapes |= prompts | _both("prompts_generator.layernorm", joint) | _both("prompts_visual_layernorm", dim)
    shapes |= _both("vision_model.pre_layernorm", dim) | _both("vision_model.post_layernorm", dim)
    shapes |= _both("text_model.final_layer_norm", text.dim) | _hugging_face_block("mit.encoder.layers.0", joint)
    for block in range(video.depth):
        shapes |= _hugging_face_block(f"vision_model.encoder.layers.{block}", dim, messages=True)
    for block in range(text.depth):
        shapes |= _hugging_face_block(f"text_model.encoder.layers.{block}", text.dim)
    return shapes


def released_vtn(spec: VtnSpec, dim: int = 768, classes: int = 400) -> Shapes:
    """Return the tensors of the fork's .pyth: a ViT-B/16, three temporal layers, a head."""
    hidden, temporal = 4 * dim, "temporal_encoder"
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "backbone.cls_token": (1, 1, dim),
        "backbone.pos_embed": (1, 197, dim),
        f"{temporal}.embeddings.position_ids": (1, spec.positions),
        f"{temporal}.embeddings.position_embeddings.weight": (spec.positions, dim),
        f"{temporal}.embeddings.token_type_embeddings.weight": (2, dim),
    }
    shapes |= _both("backbone.patch_embed.proj", dim, 3, 16, 16) | _both("backbone.norm", dim)
    for block in range(12):
        name = f"backbone.blocks.{block}"
        shapes |= _both(f"{name}.norm1", dim) | _both(f"{name}.norm2", dim)
        shapes |= _both(f"{name}.attn.qkv", 3 * dim, dim) | _both(f"{name}.attn.proj", dim, dim)
        shapes |= _both(f"{name}.mlp.fc1", hidden, dim) | _both(f"{name}.mlp.fc2", dim, hidden)
    shapes |= _both(f"{temporal}.embeddings.LayerNorm", dim)
    for layer in range(spec.depth):
        name = f"{temporal}.encoder.layer.{layer}"
        for part in ("query", "key", "value", "query_global", "key_global", "value_global"):
            shapes |= _both(f"{name}.attention.self.{part}", dim, dim)
        shapes |= _both(f"{name}.attention.output.dense", dim, dim) | _both(f"{name}.attention.output.LayerNorm", dim)
        shapes |= _both(f"{name}.intermediate.dense", hidden, dim) | _both(f"{name}.output.dense", dim, hidden)
        shapes |= _both(f"{name}.output.LayerNorm", dim)
    return shapes | _both("mlp_head.0", dim) | _both("mlp_head.1", dim, dim) | _both("mlp_head.4", classes, dim)
