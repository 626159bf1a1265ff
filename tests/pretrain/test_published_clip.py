"""Every released size of X-CLIP, CLIP and VTN loads by name and shape, strictly and completely."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import warm
from tests.pretrain.clip_manifests import Shapes, hugging_face_xclip, released_clip, released_vtn, released_xclip
from trichord.core.errors import UserError
from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.clip_text.model import ClipText
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.backbones.video_text import VideoPrompts, VideoText
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.engine.rehearsal import count_flops
from trichord.pretrain.weights.file import read_tensors
from trichord.pretrain.weights.load import families, load_tensors

INIT = InitFrom(path=Path("weights.pth"))
WITHOUT_TEXT = InitFrom(path=Path("weights.pth"), allow_unused=["text.*", "prompts.*", "scale.log"])
LARGE_TEXT = ClipTextSpec(dim=768, heads=12, joint_dim=768)
WHOLE = {  # parameters and tensors by hand, and the published cost in G with the prompts of 400 texts
    "xclip-b32-8": (196_585_729, 443, 39),
    "xclip-b16-8": (194_929_153, 443, 145),
    "xclip-b16-32": (194_941_441, 443, 571),
    "xclip-l14-8": (575_673_601, 683, 658),
    "xclip-l14-336-16": (576_007_425, 683, 3086),
}


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def sizes(family: str) -> dict[str, XClipSpec]:
    return {name: each.spec for name, each in published_sizes().items() if name.startswith(f"{family}-")}


def text_of(video: XClipSpec) -> ClipTextSpec:
    return LARGE_TEXT if video.joint_dim == 768 else ClipTextSpec()


def whole(video: XClipSpec) -> VideoText:
    with torch.device("meta"):
        return VideoText(XClip(video), ClipText(text_of(video)), has_prompts=video.messages)


@pytest.mark.parametrize("name", sizes("xclip"))
@pytest.mark.parametrize("manifest", [released_xclip, hugging_face_xclip])
def test_xclip_of_every_size_loads_strictly_and_completely(name: str, manifest: Callable[..., Shapes]) -> None:
    video = sizes("xclip")[name]
    file = manifest(video, text_of(video))
    found = load_tensors(on_meta(file), INIT, whole(video))
    assert (found.missing, found.unused, found.resized) == ([], [], [])
    if name in WHOLE:
        parameters, tensors, _ = WHOLE[name]
        assert sum(tensor.numel() for tensor in found.taken.values()) == parameters
        if manifest is released_xclip:
            assert len(file) == len(found.taken) == tensors


@pytest.mark.parametrize("name", sizes("clip"))
@pytest.mark.parametrize("prefix", ["", "module."])
def test_clip_of_every_size_loads_strictly_and_completely(name: str, prefix: str) -> None:
    video = sizes("clip")[name]
    file = {prefix + each: shape for each, shape in released_clip(video, text_of(video)).items()}
    found = load_tensors(on_meta(file), INIT, whole(video))
    assert (found.missing, found.unused, found.resized) == ([], [], [])


def test_extra_numbers_and_the_other_text_prefix_of_openai_are_read() -> None:
    video = sizes("clip")["clip-b16"]
    file = released_clip(video, text_of(video))
    openai = file | {"input_resolution": (), "context_length": (), "vocab_size": ()}
    custom_text = {
        each if each.startswith(("visual.", "logit_scale")) else f"text.{each}": shape for each, shape in file.items()
    }
    for other in (openai, custom_text):
        found = load_tensors(on_meta(other), INIT, whole(video))
        assert (found.missing, found.unused) == ([], [])


def test_torchscript_program_is_refused_with_a_working_remedy(tmp_path: Path) -> None:
    program, kept = tmp_path / "clip.pt", tmp_path / "clip.safetensors"
    script = f"import torch; torch.jit.script(torch.nn.Linear(2, 3)).save({str(program)!r})"
    assert warm.run(["-c", script]).returncode == 0
    with pytest.raises(UserError, match="is a TorchScript program") as refusal:
        read_tensors(program)
    command = next(line for line in str(refusal.value).splitlines() if line.startswith("  python"))
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert {name: tuple(tensor.shape) for name, tensor in read_tensors(kept).items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


def test_xclip_is_initialised_from_clip_and_reports_missing_tensors() -> None:
    video = XClipSpec()
    file = on_meta(released_clip(video.model_copy(update={"messages": False}), ClipTextSpec()))
    with torch.device("meta"):
        backbone = video.build()
    with pytest.raises(UserError, match=r"109 not in the file: backbone\.time_embed, backbone\.blocks\.0\.message_fc"):
        load_tensors(file, WITHOUT_TEXT, backbone)
    allowed = ["*message*", "*time_embed", "*integration*"]
    found = load_tensors(file, WITHOUT_TEXT.model_copy(update={"allow_missing": allowed}), backbone)
    assert len(found.taken) == 12 * 12 + 8


def test_tables_of_xclip_are_resized_in_time_and_space() -> None:
    file = on_meta(released_xclip(XClipSpec(frames=8, size=224), ClipTextSpec()))
    with torch.device("meta"):
        backbone = XClipSpec(frames=16, size=336).build()
    found = load_tensors(file, WITHOUT_TEXT, backbone)
    assert sorted(found.resized) == [
        "backbone.pos_embed from 1x197x768 to 1x442x768",
        "backbone.time_embed from 1x8x512 to 1x16x512",
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_xclip_with_the_prompts_of_400_texts_has_the_published_cost(name: str) -> None:
    video = sizes("xclip")[name]
    with torch.device("meta"), torch.no_grad():
        backbone = video.build().eval()
        prompts = VideoPrompts(video.dim, video.joint_dim, video.joint_heads)
        frames_BCTHW = torch.empty(1, 3, video.frames, video.size, video.size)
        text_KE = torch.empty(400, video.joint_dim)
        macs = count_flops(lambda: prompts(text_KE, backbone.encode_frames(frames_BCTHW).grid_BtnD)) / 2
    assert macs == pytest.approx(WHOLE[name][2] * 1e9, rel=0.03)


def test_vtn_loads_strictly() -> None:
    spec = VtnSpec()
    with torch.device("meta"):
        backbone = spec.build()
    file = on_meta(released_vtn(spec))
    found = load_tensors(file, INIT.model_copy(update={"allow_unused": ["classifier.*"]}), backbone)
    assert (found.missing, found.resized) == ([], [])
    assert found.unused == [f"classifier.{layer}.{leaf}" for layer in "014" for leaf in ("weight", "bias")]
    weights = sum(each.numel() for name, each in file.items() if not name.endswith("position_ids"))
    assert weights == pytest.approx(114.0e6, rel=5e-3)  # as published, with the head


@pytest.mark.parametrize(
    ("family", "file"),
    [
        ("X-CLIP", released_xclip(XClipSpec(), ClipTextSpec())),
        ("X-CLIP of Hugging Face", hugging_face_xclip(XClipSpec(), ClipTextSpec())),
        ("CLIP", released_clip(sizes("clip")["clip-b16"], ClipTextSpec())),
        ("VTN", released_vtn(VtnSpec())),
    ],
)
def test_each_file_matches_exactly_one_family(family: str, file: Shapes) -> None:
    assert [each.name for each in families() if each.matches(file)] == [family]
