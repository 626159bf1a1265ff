"""How videos and texts are compared, as settings: which words, which views, what is averaged; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator

from trichord.core.errors import UserError
from trichord.finetune.zeroshot.prompts import NamesAs, templates_of
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import CentreCrop, Interpolation, ThreeCrops, ViewSpec, ViewsSpec


class ZeroShotSpec(BaseModel):
    """One view and bare names, as X-CLIP was measured; with several views or prompts, how they become one answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: str = "bare"  # a set's name, or a text with {} in it
    # embedding: one text vector of a class, the mean over prompts; probability: the answers to all prompts, averaged
    ensemble: Literal["embedding", "probability"] = "embedding"
    names_as: NamesAs = "words"  # words: names that data sets write as one word are taken apart
    clips: PositiveInt = 1  # of a video, at places that no chance decides
    crops: Literal[1, 3] = 1  # of a clip: its centre, or three along the long side
    average: Literal["probability", "logit"] = "probability"  # over views
    frames: PositiveInt | None = None  # of a clip; none: as many as in training

    @field_validator("prompts")
    @classmethod
    def _are_known(cls, prompts: str) -> str:
        templates_of(prompts)
        return prompts

    def words(self, has_prompts: bool) -> str:
        """Name the texts and how several become one; `has_prompts` says whether videos change their vectors."""
        count = len(templates_of(self.prompts))
        told = f"prompts {self.prompts}" + ("" if self.names_as == "words" else ", names as given")
        if count == 1:
            return told
        of_vectors = "vectors averaged before each video changes them" if has_prompts else "unit vectors averaged"
        return f"{told} ({count}), {of_vectors if self.ensemble == 'embedding' else 'probabilities averaged'}"


@dataclass(frozen=True)
class Look:
    """How a model looks at videos: as it was trained to."""

    clips: ClipSpec
    size: int
    short_side: int  # that a picture is resized to before its centre is cut out
    interpolation: Interpolation
    normalisation: Normalisation

    def sample_spec(self, spec: ZeroShotSpec) -> SampleSpec:
        """Say what a sample brings: clips by clips, a clip's crops together."""
        crop: CentreCrop | ThreeCrops = CentreCrop(
            size=self.size, short_side=self.short_side, interpolation=self.interpolation
        )
        if spec.crops == 3:  # X-CLIP's three cover the whole of a picture
            crop = ThreeCrops(size=self.size, short_side=self.size, interpolation=self.interpolation)
        views = ViewsSpec(clips=self._clips(spec), views=(ViewSpec(crop=crop),))
        return SampleSpec(views=views, caption="first", is_training=False)

    def words(self, spec: ZeroShotSpec) -> str:
        """Name the views."""
        frames = getattr(self._clips(spec), "frames", None)
        views = spec.clips * spec.crops
        told = f"{spec.clips}x{spec.crops} views of {frames or 'all'} frames of {self.size} px"
        return told + (f", {'logits' if spec.average == 'logit' else 'softmax'} averaged" if views > 1 else "")

    def _clips(self, spec: ZeroShotSpec) -> ClipSpec:
        clips = self.clips.fixed(spec.clips)
        if clips is not None:
            return clips.model_copy(update={"frames": spec.frames}) if spec.frames else clips
        raise UserError(
            f"this model learnt from clips of kind {self.clips.kind}, of which a video gives no {spec.clips} without "
            "chance; ask for one clip of segments or a window"
        )
