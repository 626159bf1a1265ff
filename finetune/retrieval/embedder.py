"""Embedding of videos, texts and sounds as vectors of length 1 in one space.

Decoders are imported only when a file is embedded, so that a search by text starts sooner.

Legend: B clips, T frames of a clip or of a spectrogram, M mel filters, C colours, H rows and W columns of pixels,
E features.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.core.errors import UserError
from trichord.finetune.retrieval.spec import Windows
from trichord.finetune.zeroshot.loading import TrainedVideoText, load_video_text
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import to_unit
from trichord.pretrain.engine.device import pick_device
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import SlidingWindows
from trichord.shards.transforms.view_specs import ViewsSpec

if TYPE_CHECKING:
    from trichord.shards.decoding.track import DecodeLimits

Rows = NDArray[np.float32]
_TEXTS_AT_ONCE = 256


class Embedder:
    """A model of video and text, and of sound if it was trained on it."""

    def __init__(self, opened: TrainedVideoText, device: torch.device | None = None) -> None:
        if opened.model.has_prompts:
            raise UserError(
                "this model's prompts change texts with every video, so a text has no fixed vector to search with. "
                "Train with objective.prompts=false, or use a file of CLIP"
            )
        self.opened, self.device = opened, device or pick_device(0)
        self._model = opened.model.to(self.device)
        self._audio_model = opened.audio.model.to(self.device) if opened.audio else None

    @classmethod
    def load(cls, source: Path, device: torch.device | None = None) -> Embedder:
        """Load a run of video and text, or a file of CLIP."""
        return cls(load_video_text(source), device)

    @cached_property
    def hash(self) -> str:
        """Digest of the weights, by which an index knows its model."""
        return weights_hash(self.opened)

    @property
    def dim(self) -> int:
        """Number of features of a vector."""
        return self._model.dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model embeds."""
        return ("video", "text") if self.opened.audio is None else ("video", "text", "audio")

    def sample_spec(self, windows: Windows | None = None) -> SampleSpec:
        """Return what a sample contains: the whole video as one clip or windows of it, and the sound of each."""
        transforms, audio = self.opened.transforms, self.opened.audio
        spec = transforms.sample_spec(ZeroShotSpec())
        changes: dict[str, Any] = {"timeline": True}
        if audio is not None:
            changes |= {"sound": audio.sound, "sound_seconds": audio.seconds, "sound_of": "each_clip"}
        if windows is not None:
            frames = getattr(transforms.clips, "frames", None)
            if frames is None:
                raise UserError(
                    f"this model was trained on clips of kind {transforms.clips.kind}, which do not support windows"
                )
            clips = SlidingWindows(frames=frames, clip_seconds=windows.seconds, stride_seconds=windows.stride_s)
            changes["views"] = ViewsSpec(clips=clips, views=spec.views.views)
        return spec.model_copy(update=changes)

    @torch.no_grad()
    def embed_frames(self, frames_BCTHW: Tensor) -> Rows:
        """Return vectors_BE of uint8 frames, as in samples."""
        with self._autocast():
            pixels = self.opened.transforms.normalisation(frames_BCTHW.to(self.device))
            return _rows(self._model.encode_video(pixels).unit_BE)

    @torch.no_grad()
    def embed_audio(self, audio_BTM: Tensor) -> Rows:
        """Return vectors_BE of log-mel spectrograms."""
        assert self._audio_model is not None
        with self._autocast():
            return _rows(self._audio_model(audio_BTM.to(self.device)))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Rows:
        """Return vectors_BE of texts."""
        found = [np.empty((0, self.dim), np.float32)]
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            with self._autocast():
                found.append(_rows(to_unit(self._model.encode_text(texts[first : first + _TEXTS_AT_ONCE]))))
        return np.concatenate(found)

    def embed_video_file(self, path: Path) -> Rows:
        """Return the vector of a video file, as a row."""
        from trichord.finetune.retrieval.media import read_video_query

        return self.embed_frames(read_video_query(path, self.sample_spec()).video[0])

    def embed_video(self, raw: RawSample, limits: DecodeLimits | None = None) -> Rows:
        """Return the vector of a sample's video, as a row."""
        from trichord.shards.sample import batch_of

        return self.embed_frames(batch_of(raw, self.sample_spec(), limits).video[0])

    def embed_audio_file(self, path: Path) -> Rows:
        """Return the vector of the sound of an audio or video file, as a row."""
        from trichord.finetune.retrieval.media import read_sound, read_video_query

        audio = self.opened.audio
        if audio is None:
            raise UserError("this model was not trained on sound. Next: search with --text, --video or --like")
        if path.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS:
            audio_TM = read_video_query(path, self.sample_spec()).audio[0][0]
        else:
            audio_TM = read_sound(path, audio.sound, audio.seconds)
        if not audio_TM.any():
            raise UserError(f"{path} has no sound")
        return self.embed_audio(audio_TM[None])

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        dtype = self.opened.precision
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            yield


def weights_hash(opened: TrainedVideoText) -> str:
    """Return a digest of all weights that determine vectors, by name; a run and a file of the same weights agree."""
    digest = hashlib.sha256()
    parts = {"video": opened.model} | ({"audio": opened.audio.model} if opened.audio else {})
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _rows(unit_BE: Tensor) -> Rows:
    rows_BE: Rows = unit_BE.float().cpu().numpy()
    return rows_BE
