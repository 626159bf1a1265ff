"""Backbones by name, with initial or published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trichord.api import checks
from trichord.core.command import command_line, unknown_name, validated
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.backbones import counting
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.backbones.registry import AUDIO_BACKBONES, BACKBONES, published_sizes
from trichord.pretrain.backbones.spec import AudioBackboneSpec, BackboneSpec
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import Fit, load_published


def list_models(name: str | None = None) -> list[dict[str, object]]:
    """Return the published sizes of all backbones, with parameters, cost of a view, input and released weights.

    Args:
        name: A family or a size (default: all).

    Example:
        >>> [row["name"] for row in trichord.list_models("vivit")][:2]
        ['vivit-1-b16x2', 'vivit-2-b16x2']
    """
    return counting.list_models(name)


def create_backbone(name: str, **settings: Any) -> Encoder:
    """Create a video or audio backbone with initial weights.

    Args:
        name: A published size that `list_models` lists, such as ``"timesformer-base"``, or a family, such as
            ``"timesformer"`` or ``"ast"``.
        settings: Settings that differ, such as ``frames=16`` or ``dim=192``.

    Returns:
        A module whose ``forward(frames_BCTHW)`` returns a pooled vector and a grid of tokens; a backbone of audio
        takes ``spectrograms_BTM``. Its weights are drawn from torch's random generator.

    Example:
        >>> backbone = trichord.create_backbone("timesformer", dim=192, depth=4, heads=3, size=112)
        >>> backbone(torch.zeros(2, 3, 8, 112, 112)).pooled_BD.shape
        torch.Size([2, 192])
    """
    families: dict[str, type[BackboneSpec] | type[AudioBackboneSpec]] = {**BACKBONES, **AUDIO_BACKBONES}
    sizes = published_sizes()
    if name in sizes:
        spec = sizes[name].spec
        family, defaults = type(spec), spec.model_dump(exclude_unset=True)
    elif name in families:
        family, defaults = families[name], {}
    else:
        raise UserError(unknown_name("no backbone", name, [*families, *sizes]))
    return validated(name, {**defaults, **settings}, family).build()


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    part: str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    time_from_space: bool = False,
) -> Fit:
    """Load published or exported weights into a backbone, strictly: every tensor must find its place.

    The family of the file is recognised by the names of its tensors; position tables are resized.

    Args:
        module: A backbone of `create_backbone`, or a module whose attribute ``backbone`` is one.
        path: A .safetensors, .pth, .pyth, .pt or .bin file, or a folder of Hugging Face. Nothing in it is executed.
        part: The part to load from a file that holds several, such as ``"teacher"``.
        allow_missing: Patterns of names that the file may lack, such as ``"backbone.*time*"``.
        allow_unused: Patterns of names in the file that the network does not need, such as ``"head.*"``.
        time_from_space: Initialise temporal attention from spatial, for weights of an image model.

    Returns:
        What was loaded, resized and left out; ``print(*fit.lines(), sep="\\\\n")`` lists it.

    Example:
        >>> backbone = trichord.create_backbone("timesformer-base")
        >>> trichord.load_weights(backbone, "TimeSformer_divST_8x32_224_K400.pyth", allow_unused=["head.*"])
        Fit(TimeSformer: 247 tensors loaded)
    """
    if RunFolder(Path(path)).is_run:
        raise UserError(
            f"{path} is a run. Next: {command_line('export', path, '--out', 'weights.safetensors')}, which writes a "
            "file; or trichord.load_model, which loads all of it"
        )
    init = InitFrom(
        path=Path(path),
        part=part,
        allow_missing=tuple(checks.texts("allow_missing", allow_missing)),
        allow_unused=tuple(checks.texts("allow_unused", allow_unused)),
        time_from_space=time_from_space,
    )
    return load_published(init, module)
