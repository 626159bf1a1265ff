"""timm's image networks without their classifiers, applied to single frames or to spectrograms.

Legend: N entries of a position table, n those of a network, D features.
"""

from __future__ import annotations

from difflib import get_close_matches
from math import isqrt
from typing import Any

from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.core.wheels import make_importable
from trichord.pretrain.layers.transformer import count_batches_once

# Models that accept any size at run time with `dynamic_img_size`; their position tables are resized.
_OF_ANY_SIZE = ("timm.models.vision_transformer", "timm.models.deit")


def image_network(
    setting: str, name: str, size: int, drop_path: float, recomputes: bool = False, colours: int = 3
) -> nn.Module:
    """Build a network with initial weights; `setting` is the recipe setting of its name, for the error message."""
    timm = _timm()
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5)) or "none"
        listing = "python -c 'import timm; print(*timm.list_models())'"
        raise UserError(f"timm has no {setting} '{name}'. Close matches: {near}. To list all: {listing}")
    sizes: dict[str, Any] = {"img_size": size, "dynamic_img_size": True}
    options = sizes if timm.models.model_entrypoint(name).__module__ in _OF_ANY_SIZE else {}
    network: Any = timm.create_model(name, num_classes=0, in_chans=colours, drop_path_rate=drop_path or None, **options)
    if recomputes:
        network.set_grad_checkpointing(True)
        count_batches_once(network)
    assert isinstance(network, nn.Module)
    return network


def of_network(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the prefix `part` to the tensors of an image network; return those of a backbone unchanged."""
    if any(name.startswith(f"{part}.") for name in tensors):
        return tensors
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def fitted_positions(network: nn.Module, table_1ND: Tensor) -> Tensor | None:
    """Resize a position table to that of a ViT, as timm does at run time; None for other networks or tables."""
    timm = _timm()
    if not isinstance(network, timm.models.VisionTransformer):
        return None
    vit: Any = network
    before = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if isqrt(table_1ND.shape[1] - before) ** 2 != table_1ND.shape[1] - before:
        return None
    fitted_1nD: Tensor = timm.layers.resample_abs_pos_embed(
        table_1ND, vit.patch_embed.grid_size, num_prefix_tokens=before
    )
    return fitted_1nD


def features_of(network: nn.Module) -> int:
    """Return the number of output features; some networks have more than the features of their last map."""
    timm_network: Any = network
    return int(getattr(timm_network, "head_hidden_size", timm_network.num_features))


def layers_of(network: nn.Module) -> dict[str, int]:
    """Return the layer number of each parameter, as timm assigns them for layer-wise learning rates."""
    from timm.models._manipulate import group_with_matcher

    timm_network: Any = network
    matcher = timm_network.group_matcher()
    return dict(group_with_matcher(timm_network.named_parameters(), matcher, reverse=True))


def _timm() -> Any:
    make_importable()  # timm imports torchvision
    import timm

    return timm
