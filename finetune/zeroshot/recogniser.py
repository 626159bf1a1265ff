"""A model that names what a video shows, out of labels that it may never have heard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trichord.core.errors import SampleError, UserError
from trichord.finetune.zeroshot.classifier import Classifier, probabilities
from trichord.finetune.zeroshot.opening import Opened
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import VideoText
from trichord.shards.reading.one_file import batch_of, read_video


class Recogniser:
    """What was opened, on a device."""

    def __init__(self, opened: Opened, device: torch.device) -> None:
        self.opened, self.device = opened, device
        self.model: VideoText = opened.model.to(device)
        self._read: tuple[tuple[tuple[str, ...], ZeroShotSpec], Classifier] | None = None

    def zeroshot(self, video: str | Path, labels: Sequence[str], **how: Any) -> dict[str, float]:
        """Give the probability of each label for a video file, the likeliest first; `how` is what ZeroShotSpec takes.

        The texts are read once for several videos with the same labels.
        """
        asked = (tuple(labels), ZeroShotSpec(**how))
        if self._read is None or self._read[0] != asked:
            self._read = (asked, self.classifier(*asked))
        found_1K = probabilities(self.logits(self.look_at(Path(video), asked[1]), self._read[1]), asked[1])
        by_label = dict(zip(labels, found_1K[0].tolist(), strict=True))
        return dict(sorted(by_label.items(), key=lambda each: -each[1]))

    def classifier(self, names: Sequence[str], spec: ZeroShotSpec) -> Classifier:
        """Read the texts of classes."""
        if not names or len(set(names)) < len(names):
            raise UserError(f"expected different labels, found {list(names) or 'none'}")
        with self.autocast():
            return Classifier(self.model, names, spec)

    def logits(self, views: Sequence[Tensor], classifier: Classifier) -> Tensor:
        """Give logits_VPBK of views as batches have them, each uint8 frames_BCTHW."""
        pixels = self.opened.look.normalisation
        with self.autocast():
            return classifier.logits([pixels(frames_BCTHW.to(self.device)) for frames_BCTHW in views])

    def look_at(self, video: Path, spec: ZeroShotSpec) -> list[Tensor]:
        """Decode the views of one file, as batches of one."""
        raw = read_video(video)
        try:
            return batch_of(raw, self.opened.look.sample_spec(spec))["video"]
        except SampleError as error:
            raise UserError(f"{video} cannot be used: {error}") from error

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute as the model was trained to."""
        dtype = self.opened.precision
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            yield
