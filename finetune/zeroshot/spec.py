"""Settings of zero-shot recognition: prompts, views and averaging; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator

from trichord.core.errors import UserError
from trichord.finetune.zeroshot.prompts import NamesAs, templates_of
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec
from trichord.shards.transforms.crops import CentreCrop, Interpolation, ThreeCrops
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec


class ZeroShotSpec(BaseModel):
    """Prompts and views, and how several of them are averaged.

    By default one view and bare class names, as X-CLIP was evaluated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: str = "bare"
    """Name of a published set of prompts, or a text that contains {} in place of the class name."""
    ensemble: Literal["embedding", "probability"] = "embedding"
    """What is averaged over prompts: `embedding` the text vectors of a class, `probability` the probabilities."""
    names_as: NamesAs = "words"
    """`words` splits class names that are written as one word, `given` keeps them."""
    clips: PositiveInt = 1
    """Number of clips of a video, at fixed positions."""
    crops: Literal[1, 3] = 1
    """Number of crops of a clip: its centre, or three along the long side."""
    average: Literal["probability", "logit"] = "probability"
    """What is averaged over clips and crops: probabilities or logits."""
    frames: PositiveInt | None = None
    """Number of frames of a clip; null takes as many as in training."""

    @field_validator("prompts")
    @classmethod
    def _are_known(cls, prompts: str) -> str:
        templates_of(prompts)
        return prompts

    def words(self, has_prompts: bool) -> str:
        """Describe the prompts and their averaging; `has_prompts` says whether videos change the text vectors."""
        count = len(templates_of(self.prompts))
        text = f"prompts {self.prompts}" + ("" if self.names_as == "words" else ", names as given")
        if count == 1:
            return text
        of_vectors = "vectors averaged before each video changes them" if has_prompts else "unit vectors averaged"
        return f"{text} ({count}), {of_vectors if self.ensemble == 'embedding' else 'probabilities averaged'}"


@dataclass(frozen=True)
class VideoTransforms:
    """Video transforms of a model, those of its training."""

    clips: ClipSpec
    size: int
    short_side: int  # to which a frame is resized before the centre crop
    interpolation: Interpolation
    normalisation: Normalisation

    def sample_spec(self, spec: ZeroShotSpec) -> SampleSpec:
        """Return what a sample contains: the views clip by clip, with the crops of a clip together."""
        crop: CentreCrop | ThreeCrops = CentreCrop(
            size=self.size, short_side=self.short_side, interpolation=self.interpolation
        )
        if spec.crops == 3:  # X-CLIP's three crops cover the whole frame
            crop = ThreeCrops(size=self.size, short_side=self.size, interpolation=self.interpolation)
        views = ViewsSpec(clips=self._clips(spec), views=(ViewSpec(crop=crop),))
        return SampleSpec(views=views, caption="first", is_training=False)

    def words(self, spec: ZeroShotSpec) -> str:
        """Describe the views."""
        frames = getattr(self._clips(spec), "frames", None)
        views = spec.clips * spec.crops
        text = f"{spec.clips}x{spec.crops} views of {frames or 'all'} frames of {self.size} px"
        return text + (f", {'logits' if spec.average == 'logit' else 'softmax'} averaged" if views > 1 else "")

    def _clips(self, spec: ZeroShotSpec) -> ClipSpec:
        clips = self.clips.fixed(spec.clips)
        if clips is not None:
            return clips.model_copy(update={"frames": spec.frames}) if spec.frames else clips
        raise UserError(
            f"this model was trained on clips of kind {self.clips.kind}, of which {spec.clips} cannot be taken from a "
            "video at fixed positions. Use one clip, of segments or a window"
        )
