"""Zero-shot classifiers: how well the text of each class matches a video, as probabilities (Radford et al. 2021, 3.1).

Labels need not occur in training. Without X-CLIP's video-specific prompts, a class is one vector, computed once and
cached. With them, every video changes the texts' vectors, so that only the output rows of the text encoder can be
cached, and the mean over prompts is a mean of these rows.
Legend: V views, B videos, C colours, T frames, H rows and W columns of pixels; P prompts, K classes, E features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trichord.core.errors import SampleError, UserError
from trichord.finetune.zeroshot.loading import TrainedVideoText
from trichord.finetune.zeroshot.prompts import texts_of
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import VideoText, to_unit
from trichord.shards.sample import batch_of, read_video

_TEXTS_AT_ONCE = 256


class Classifier:
    """A model and the texts of the classes, which are encoded once."""

    def __init__(self, model: VideoText, names: Sequence[str], spec: ZeroShotSpec) -> None:
        self.model, self.spec = model, spec
        self.rows_PKE = read_classes(model, names, spec)

    @torch.no_grad()
    def logits(self, views: Sequence[Tensor]) -> Tensor:
        """Return logits_VPBK of normalised views, each frames_BCTHW."""
        per_view = []
        for frames_BCTHW in views:
            encoded = self.model.encode_video(frames_BCTHW)
            cosines_PBK = torch.stack([self.model.cosines(encoded, rows_KE) for rows_KE in self.rows_PKE])
            per_view.append(self.model.scale() * cosines_PBK)
        return torch.stack(per_view)


@torch.no_grad()
def read_classes(model: VideoText, names: Sequence[str], spec: ZeroShotSpec) -> Tensor:
    """Return rows_PKE, one row of each class for each prompt, or one for all prompts if their vectors are averaged."""
    by_prompt = texts_of(names, spec.prompts, spec.names_as)
    texts = [text for of_classes in by_prompt for text in of_classes]
    read = [model.encode_text(texts[first : first + _TEXTS_AT_ONCE]) for first in range(0, len(texts), _TEXTS_AT_ONCE)]
    rows_PKE: Tensor = torch.cat(read).unflatten(0, (len(by_prompt), len(names)))
    if spec.ensemble == "probability" or len(by_prompt) == 1:
        return rows_PKE
    # The network of video-specific prompts was trained on rows that are not normalised.
    mean_1KE: Tensor = (rows_PKE if model.has_prompts else to_unit(rows_PKE)).mean(dim=0, keepdim=True)
    return mean_1KE


def probabilities(logits_VPBK: Tensor, spec: ZeroShotSpec) -> Tensor:
    """Return probabilities_BK: logits or probabilities are averaged over views, probabilities over prompts."""
    if spec.average == "logit":
        logits_VPBK = logits_VPBK.mean(dim=0, keepdim=True)
    probabilities_BK: Tensor = logits_VPBK.softmax(dim=-1).mean(dim=(0, 1))
    return probabilities_BK


class Recogniser:
    """A loaded model of video and text on a device."""

    def __init__(self, opened: TrainedVideoText, device: torch.device) -> None:
        self.opened, self.device = opened, device
        self.model: VideoText = opened.model.to(device)
        self._read: tuple[tuple[tuple[str, ...], ZeroShotSpec], Classifier] | None = None

    def zeroshot(self, video: str | Path, labels: Sequence[str], **how: Any) -> dict[str, float]:
        """Return the probability of each label for a video file, the likeliest first; `how` goes to ZeroShotSpec.

        The texts are encoded once for several videos with the same labels.
        """
        spec = ZeroShotSpec(**how)
        classifier = self.last_classifier(labels, spec)
        found_1K = probabilities(self.logits(self.load_views(Path(video), spec), classifier), spec)
        by_label = dict(zip(labels, found_1K[0].tolist(), strict=True))
        return dict(sorted(by_label.items(), key=lambda each: -each[1]))

    def last_classifier(self, names: Sequence[str], spec: ZeroShotSpec) -> Classifier:
        """Return a classifier, that of the last call if it is the same; the weights must not have changed since."""
        asked = (tuple(names), spec)
        if self._read is None or self._read[0] != asked:
            self._read = (asked, self.classifier(*asked))
        return self._read[1]

    def classifier(self, names: Sequence[str], spec: ZeroShotSpec) -> Classifier:
        """Return a classifier with the encoded texts of the classes."""
        if not names or len(set(names)) < len(names):
            raise UserError(f"expected different labels, found {list(names) or 'none'}")
        with self.autocast():
            return Classifier(self.model, names, spec)

    def logits(self, views: Sequence[Tensor], classifier: Classifier) -> Tensor:
        """Return logits_VPBK of views as in batches, each uint8 frames_BCTHW."""
        pixels = self.opened.transforms.normalisation
        with self.autocast():
            return classifier.logits([pixels(frames_BCTHW.to(self.device)) for frames_BCTHW in views])

    def load_views(self, video: Path, spec: ZeroShotSpec) -> list[Tensor]:
        """Decode the views of one file, as batches of one."""
        raw = read_video(video)
        try:
            return batch_of(raw, self.opened.transforms.sample_spec(spec)).video
        except SampleError as error:
            raise UserError(f"{video} cannot be used: {error}") from error

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Enable autocast with the precision that the model was trained with."""
        dtype = self.opened.precision
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            yield
