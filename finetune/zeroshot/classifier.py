"""Classes by their texts alone (Radford et al. 2021, section 3.1): how well each text suits a video, as probabilities.

Without X-CLIP's video-specific prompts a class is one vector, made once and kept. With them every video changes the
texts' vectors, so that only the text encoder's own rows can be kept, and the mean over prompts is one of these rows.
Legend: V views, B videos, C colours, T frames, H rows and W columns of pixels; P prompts, K classes, E features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trichord.finetune.zeroshot.prompts import texts_of
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import VideoText, to_unit

_TEXTS_AT_ONCE = 256


class Classifier:
    """A model and the texts of the classes, which are read once."""

    def __init__(self, model: VideoText, names: Sequence[str], spec: ZeroShotSpec) -> None:
        self.model, self.spec = model, spec
        self.rows_PKE = read_classes(model, names, spec)

    @torch.no_grad()
    def logits(self, views: Sequence[Tensor]) -> Tensor:
        """Give logits_VPBK of normalised views, each frames_BCTHW."""
        per_view = []
        for frames_BCTHW in views:
            seen = self.model.see(frames_BCTHW)
            cosines_PBK = torch.stack([self.model.cosines(seen, rows_KE) for rows_KE in self.rows_PKE])
            per_view.append(self.model.scale() * cosines_PBK)
        return torch.stack(per_view)


@torch.no_grad()
def read_classes(model: VideoText, names: Sequence[str], spec: ZeroShotSpec) -> Tensor:
    """Give rows_PKE, one row of a class for each prompt; one for all where their vectors are averaged."""
    by_prompt = texts_of(names, spec.prompts, spec.names_as)
    texts = [text for said in by_prompt for text in said]
    read = [model.read(texts[first : first + _TEXTS_AT_ONCE]) for first in range(0, len(texts), _TEXTS_AT_ONCE)]
    rows_PKE: Tensor = torch.cat(read).unflatten(0, (len(by_prompt), len(names)))
    if spec.ensemble == "probability" or len(by_prompt) == 1:
        return rows_PKE
    # Video-specific prompts are a network that learnt from rows of their own lengths.
    mean_1KE: Tensor = (rows_PKE if model.has_prompts else to_unit(rows_PKE)).mean(dim=0, keepdim=True)
    return mean_1KE


def probabilities(logits_VPBK: Tensor, spec: ZeroShotSpec) -> Tensor:
    """Give probabilities_BK: over views logits or probabilities are averaged, over prompts probabilities."""
    if spec.average == "logit":
        logits_VPBK = logits_VPBK.mean(dim=0, keepdim=True)
    probabilities_BK: Tensor = logits_VPBK.softmax(dim=-1).mean(dim=(0, 1))
    return probabilities_BK
