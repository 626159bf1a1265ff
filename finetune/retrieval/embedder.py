"""Embedding of videos, texts and sounds as vectors of length 1 in one space.

Decoders are imported only when a file is embedded, so that a search by text starts sooner.

Legend: B clips, T frames of a clip or of a spectrogram, M mel filters, C colours, H rows and W columns of pixels,
E features.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.core.errors import UserError
from trichord.finetune.retrieval.spec import Windows
from trichord.finetune.zeroshot.opening import Opened, open_video_text
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import to_unit
from trichord.pretrain.engine.device import pick_device
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import SlidingWindows
from trichord.shards.transforms.view_specs import ViewsSpec

Rows = NDArray[np.float32]
_TEXTS_AT_ONCE = 256


class Embedder:
    """A model of video and text, and of sound if it was trained on it."""

    def __init__(self, opened: Opened, device: torch.device | None = None) -> None:
        if opened.model.has_prompts:
            raise UserError(
                "this model's prompts change texts with every video, so a text has no fixed vector to search with. "
                "Train with objective.prompts=false, or use a file of CLIP"
            )
        self.opened, self.device = opened, device or pick_device(0)
        self._model = opened.model.to(self.device)
        self._audio_model = opened.hearing.model.to(self.device) if opened.hearing else None
        self.hash = weights_hash(opened)

    @classmethod
    def open(cls, source: Path, device: torch.device | None = None) -> Embedder:
        """Load a run of video and text, or a file of CLIP."""
        return cls(open_video_text(source), device)

    @property
    def dim(self) -> int:
        """Number of features of a vector."""
        return self._model.dim

    @property
    def senses(self) -> tuple[str, ...]:
        """Modalities that the model embeds."""
        return ("video", "text") if self.opened.hearing is None else ("video", "text", "audio")

    def sample_spec(self, windows: Windows | None = None) -> SampleSpec:
        """Return what a sample contains: the whole video as one clip or windows of it, and the sound of each."""
        look, hearing = self.opened.look, self.opened.hearing
        spec = look.sample_spec(ZeroShotSpec())
        changes: dict[str, Any] = {"timeline": True}
        if hearing is not None:
            changes |= {"sound": hearing.sound, "sound_seconds": hearing.seconds, "sound_of": "each_clip"}
        if windows is not None:
            frames = getattr(look.clips, "frames", None)
            if frames is None:
                raise UserError(
                    f"this model was trained on clips of kind {look.clips.kind}, which do not support windows"
                )
            clips = SlidingWindows(frames=frames, clip_seconds=windows.seconds, stride_seconds=windows.stride_s)
            changes["views"] = ViewsSpec(clips=clips, views=spec.views.views)
        return spec.model_copy(update=changes)

    @torch.no_grad()
    def see(self, frames_BCTHW: Tensor) -> Rows:
        """Return vectors_BE of uint8 frames, as in samples."""
        with self._autocast():
            pixels = self.opened.look.normalisation(frames_BCTHW.to(self.device))
            return _rows(self._model.see(pixels).unit_BE)

    @torch.no_grad()
    def hear(self, audio_BTM: Tensor) -> Rows:
        """Return vectors_BE of log-mel spectrograms."""
        assert self._audio_model is not None
        with self._autocast():
            return _rows(self._audio_model(audio_BTM.to(self.device)))

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Rows:
        """Return vectors_BE of texts."""
        found = [np.empty((0, self.dim), np.float32)]
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            with self._autocast():
                found.append(_rows(to_unit(self._model.read(texts[first : first + _TEXTS_AT_ONCE]))))
        return np.concatenate(found)

    def video_file(self, path: Path) -> Rows:
        """Return the vector of a video file, as a row."""
        from trichord.finetune.retrieval.questions import look_at

        return self.see(look_at(path, self.sample_spec())["video"][0])

    def video(self, raw: RawSample) -> Rows:
        """Return the vector of a sample's video, as a row."""
        from trichord.shards.reading.single import batch_of

        return self.see(batch_of(raw, self.sample_spec())["video"][0])

    def audio_file(self, path: Path) -> Rows:
        """Return the vector of the sound of an audio or video file, as a row."""
        from trichord.finetune.retrieval.questions import listen_to, look_at

        hearing = self.opened.hearing
        if hearing is None:
            raise UserError("this model was not trained on sound. Next: search with --text, --video or --like")
        if path.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS:
            audio_TM = look_at(path, self.sample_spec())["audio"][0][0]
        else:
            audio_TM = listen_to(path, hearing)
        if not audio_TM.any():
            raise UserError(f"{path} has no sound")
        return self.hear(audio_TM[None])

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        dtype = self.opened.precision
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            yield


def weights_hash(opened: Opened) -> str:
    """Return a digest of all weights that determine vectors, by name; a run and a file of the same weights agree."""
    digest = hashlib.sha256()
    parts = {"video": opened.model} | ({"audio": opened.hearing.model} if opened.hearing else {})
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _rows(unit_BE: Tensor) -> Rows:
    rows_BE: Rows = unit_BE.float().cpu().numpy()
    return rows_BE
