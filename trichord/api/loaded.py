"""What a loaded model offers to `Model`: encoders of each modality, a zero-shot classifier, predictions.

Legend: B inputs, C colours, T frames, H rows and W columns of pixels; M mel filters, E features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.registry import load
from trichord.finetune.loading import TrainedRun
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.media import read_sound
from trichord.finetune.tasks.spec import TaskSpec
from trichord.finetune.token_maps.maps import video_encoder_of
from trichord.finetune.zeroshot.classifier import Recogniser
from trichord.finetune.zeroshot.loading import TrainedVideoText
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.base import AudioBackbone, Backbone
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec

Encode = Callable[[Tensor], Tensor]


class VideoInput(NamedTuple):
    """How frames become vectors."""

    spec: SampleSpec
    encode: Encode  # uint8 frames_BCTHW to vectors_BE


class AudioInput(NamedTuple):
    """How sounds become vectors."""

    sound: SoundSpec
    seconds: float | None  # of the middle of a sound; None: all of it
    encode: Encode  # spectrograms_BTM to vectors_BE
    encode_file: Callable[[Path], Tensor]  # an audio or video file to vectors_1E


class Predictor(NamedTuple):
    """How a head or a captioner predicts."""

    spec: SampleSpec
    predict: Callable[[Batch], list[Any]]


class Loaded:
    """A loaded model; every method that is not overridden raises UserError."""

    def __init__(self, source: Path, device: torch.device) -> None:
        self.source, self.device = source, device

    def __repr__(self) -> str:
        return f"Model({str(self.source)!r})"

    def video(self) -> VideoInput:
        """Return the encoder of videos."""
        raise self.unsupported("has no video backbone", "a run with video")

    def audio(self) -> AudioInput:
        """Return the encoder of sounds."""
        raise self.unsupported("was not trained on audio", "a run with audio_backbone")

    def text(self) -> Callable[[Sequence[str]], Tensor]:
        """Return the encoder of texts."""
        raise self.unsupported("has no text encoder", "a run of video_text, or a file of CLIP")

    def recogniser(self) -> Recogniser:
        """Return the zero-shot classifier."""
        raise self.unsupported("has no text encoder", "a run of video_text, or a file of X-CLIP or CLIP")

    def predictor(self) -> Predictor:
        """Return the head or captioner."""
        raise self.unsupported("has neither a head nor a captioner", "a run of trichord finetune")

    def unsupported(self, why: str, expected: str) -> UserError:
        """Return the error for a method that this model does not support."""
        return UserError(f"{self!r} {why}; expected {expected}")


class LoadedVideoText(Loaded):
    """A model of video and text, and of audio if it was trained on it: all embed into one space."""

    def __init__(self, source: Path, device: torch.device, opened: TrainedVideoText) -> None:
        super().__init__(source, device)
        self._recogniser = Recogniser(opened, device)

    def __repr__(self) -> str:
        about = self._recogniser.opened.about
        step = "" if about["step"] is None else f", step {about['step']}"
        return f"Model({str(self.source)!r}: video and text, {about['backbone']}{step}, on {self.device})"

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self._recogniser.opened, self.device)

    def _on_device(self, encode: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
        return lambda inputs: torch.from_numpy(encode(inputs)).to(self.device)

    def video(self) -> VideoInput:
        recogniser, opened = self._recogniser, self._recogniser.opened  # also with prompts, which change texts only

        @torch.no_grad()
        def encode(frames_BCTHW: Tensor) -> Tensor:
            with recogniser.autocast():
                pixels_BCTHW = opened.transforms.normalisation(frames_BCTHW.to(self.device))
                return recogniser.model.encode_video(pixels_BCTHW).unit_BE.float()

        return VideoInput(opened.transforms.sample_spec(ZeroShotSpec()), encode)

    def audio(self) -> AudioInput:
        audio = self._recogniser.opened.audio
        if audio is None:
            return super().audio()
        encode, encode_file = self._embedder.embed_audio, self._embedder.embed_audio_file
        return AudioInput(audio.sound, audio.seconds, self._on_device(encode), self._on_device(encode_file))

    def text(self) -> Callable[[Sequence[str]], Tensor]:
        return self._on_device(self._embedder.embed_texts)

    def recogniser(self) -> Recogniser:
        return self._recogniser


class LoadedRun(Loaded):
    """A run without a text encoder: its backbones, and its head or captioner if it has one."""

    def __init__(self, source: Path, device: torch.device, run: TrainedRun) -> None:
        super().__init__(source, device)
        self._run = run

    def __repr__(self) -> str:
        config = self._run.config
        kinds = [each.kind for each in (config.backbone, config.audio_backbone) if each is not None]
        about = f"{config.objective.kind}, {' + '.join(kinds)}, step {self._run.step}"
        return f"Model({str(self.source)!r}: {about}, on {self.device})"

    def video(self) -> VideoInput:
        encoder = video_encoder_of(self._run)
        return VideoInput(encoder.spec, self._pooled(encoder.backbone, encoder.normalisation))

    def audio(self) -> AudioInput:
        backbone = getattr(getattr(self._run.objective, "audio", None), "backbone", None)
        spec: Any = self._run.config.objective
        if not isinstance(backbone, AudioBackbone):
            return super().audio()
        encode = self._pooled(backbone)
        sound, seconds = spec.sound, spec.sound_seconds
        return AudioInput(sound, seconds, encode, lambda path: encode(read_sound(path, sound, seconds)[None]))

    def predictor(self) -> Predictor:
        run, spec = self._run, self._run.config.objective
        if not isinstance(spec, TaskSpec):
            return super().predictor()
        predict = load(spec.predicts)
        return Predictor(spec.test_spec(), lambda batch: predict(run.config, run.objective, batch.to(self.device)))

    def _pooled(self, backbone: Backbone | AudioBackbone, normalise: Encode = lambda inputs: inputs) -> Encode:
        """Return a function from a backbone's inputs to its pooled vectors."""
        dtype = self._run.objective.cast_to

        @torch.no_grad()
        def encode(inputs: Tensor) -> Tensor:
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                pooled_BE: Tensor = backbone(normalise(inputs.to(self.device)), pooled_only=True).pooled_BD
            return pooled_BE.float()

        return encode
