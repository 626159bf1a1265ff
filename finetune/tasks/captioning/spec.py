"""What a recipe says of captions: what is looked at, which language model, how it speaks; read without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from trichord.core.registry import Registry, one_of
from trichord.finetune.tasks.spec import TaskSpec, random_settings_of
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.view_specs import ViewsSpec

_DECODING = "trichord.finetune.tasks.captioning.decoding"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemorySpec(_Spec):
    """What of a video the language model looks at, at every word: tokens of all of its clips, one behind the other."""

    tokens: Literal["pooled", "all"] = "all"  # of each clip: the backbone's own vector, or that and its whole grid
    mapping: Literal["linear", "none"] = "linear"  # to the width of the language model; none: the two are as wide
    layer_norm: bool = False  # of each token, before that

    @property
    def words(self) -> str:
        """Say in short what it is."""
        which = "all tokens" if self.tokens == "all" else "pooled"
        return which + (", mapped" if self.mapping == "linear" else "")


class LanguageSpec(_Spec):
    """A GPT-2 with cross-attention, as it stands the small one; published weights, or none and it learns to write."""

    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    positions: PositiveInt = 1024
    vocabulary: Annotated[int, Field(ge=257)] = 50257  # every byte, the mark at a text's ends, and pairs beyond
    dropout: float = Field(default=0.1, ge=0, lt=1)
    # A folder as save_pretrained writes it, or a name on the Hugging Face Hub; its tokenizer comes along. Without, the
    # first weights are drawn and the tokenizer is learnt from the captions of data.sources.
    weights: str | None = None
    longest: PositiveInt = 64  # tokens of a caption; in training longer ones are cut

    @model_validator(mode="after")
    def _is_possible(self) -> LanguageSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.longest + 1 > self.positions:
            raise ValueError(f"longest={self.longest} and the mark before it do not fit positions={self.positions}")
        return self


class DecodingSpec(_Spec, ABC):
    """How captions are written."""

    kind: str

    decodes: ClassVar[str]  # "module:function", which writes texts

    @property
    @abstractmethod
    def words(self) -> str:
        """In short, what it is."""


class GreedySpec(DecodingSpec):
    """The likeliest token, each time."""

    decodes: ClassVar[str] = f"{_DECODING}:greedy"

    kind: Literal["greedy"] = "greedy"

    @property
    def words(self) -> str:
        """Say in short what it is."""
        return "greedy"


class BeamSpec(DecodingSpec):
    """The likeliest text among the beams kept: its log-probability over its length to the power of length_penalty."""

    decodes: ClassVar[str] = f"{_DECODING}:beam_search"

    kind: Literal["beam"] = "beam"
    beams: PositiveInt = 3
    length_penalty: NonNegativeFloat = 1.0  # 0: of whole texts; 1: of the mean token, which favours longer texts

    @property
    def words(self) -> str:
        """Say in short what it is."""
        return f"{self.beams} beams, length penalty {self.length_penalty:g}"


class NucleusSpec(DecodingSpec):
    """Drawn from the likeliest tokens that have top_p of the probability together; seeded by the sample's key."""

    decodes: ClassVar[str] = f"{_DECODING}:nucleus"

    kind: Literal["nucleus"] = "nucleus"
    top_p: float = Field(default=0.9, gt=0, le=1)
    temperature: PositiveFloat = 1.0

    @property
    def words(self) -> str:
        """Say in short what it is."""
        return f"drawn from the likeliest {self.top_p:g}, temperature {self.temperature:g}"


DECODINGS: Registry[type[DecodingSpec]] = Registry(
    "decodings",
    {"greedy": f"{__name__}:GreedySpec", "beam": f"{__name__}:BeamSpec", "nucleus": f"{__name__}:NucleusSpec"},
)
if TYPE_CHECKING:
    AnyDecoding = DecodingSpec
else:
    AnyDecoding = one_of(DECODINGS)


class CaptionSpec(TaskSpec):
    """Captions of videos: a backbone's tokens, and a language model with cross-attention over them."""

    builds: ClassVar[str] = "trichord.finetune.tasks.captioning.model:Captioner.of_run"
    prepares: ClassVar[str] = "trichord.finetune.tasks.captioning.init:prepare"
    evaluates: ClassVar[str] = "trichord.finetune.tasks.captioning.evaluation:evaluate"
    predicts: ClassVar[str] = "trichord.finetune.page.captions:predict_caption"
    page_section: ClassVar[str] = "captions"
    fixed: ClassVar[tuple[str, ...]] = (
        *("frozen", "trained", "memory"),
        *(f"language.{name}" for name in ("dim", "depth", "heads", "positions", "vocabulary")),
    )

    kind: Literal["captions"] = "captions"
    inputs: tuple[Literal["video"]] = ("video",)
    memory: MemorySpec = MemorySpec()
    language: LanguageSpec = LanguageSpec()
    trained: tuple[str, ...] = ()  # patterns of names of a frozen backbone's parameters that learn all the same
    decoding: AnyDecoding = BeamSpec()
    factors: Literal["world"] | None = None  # what a test looks up in captions: the generated world's words
    meteor: bool = False  # measured in a test as well, which takes Java, the extra `meteor` and 2 GB of memory

    @property
    def head_words(self) -> str:
        """Say in short what is on the backbone."""
        begun = f"{self.language.weights}" if self.language.weights else "GPT-2 from scratch"
        return f"{begun} {self.language.depth}x{self.language.dim} on {self.memory.words}"

    @property
    def trained_words(self) -> str:
        """Say in short what learns."""
        return "all" if not self.frozen else " and ".join(("head", *self.trained))

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint by name."""
        return ("video",)

    @property
    def random_settings(self) -> tuple[str, ...]:
        """Name the settings by which chance decides what a backbone is given of a training clip."""
        return random_settings_of(self.clips, self.view)

    @property
    def needs_grid(self) -> bool:
        """Say whether the language model looks at more of a backbone than its own vector."""
        return self.memory.tokens == "all"

    @property
    def clip_count(self) -> int:
        """Count the clips of a video that are looked at together."""
        return self.clips.clip_count or 0

    def sample_spec(self) -> SampleSpec:
        """Say what a sample must bring to training: any one of its captions."""
        views = ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips)
        return SampleSpec(views=views, caption="random")

    def test_spec(self) -> SampleSpec:
        """Say what a sample must bring to a test: all of its captions."""
        views = ViewsSpec(clips=self.test_clips, views=(self.test_view,), flips=self.flips)
        return SampleSpec(views=views, caption="all", is_training=False)

    def feature_complaints(self) -> Iterator[str]:
        if self.trained:
            yield "features are of a backbone that stays as it is: leave objective.trained out, or features"
        else:
            yield from super().feature_complaints()

    def check(self, config: Any) -> str:
        if self.language.weights is not None:
            from trichord.finetune.tasks.captioning.hub import tokenizer_file

            tokenizer_file(self.language.weights)  # it is there, or can be fetched
        return super().check(config)

    @model_validator(mode="after")
    def _can_be(self) -> CaptionSpec:
        counts = [each.clip_count for each in (self.clips, self.test_clips)]
        if counts[0] is None or counts[0] != counts[1]:
            said = ["a number that depends on the video" if each is None else each for each in counts]
            raise ValueError(
                f"clips give {said[0]} of a video, and test_clips {said[1]}: the language model looks at as many in a "
                "test as in training. Take segments, window or full with one number of clips"
            )
        if max(self.view.crop.count, self.test_view.crop.count) > 1:
            raise ValueError("view and test_view: captions look at one crop of each clip, found crop.kind=three")
        if self.trained and not self.frozen:
            raise ValueError("trained names what learns of a frozen backbone: set frozen=true, or trained=[]")
        self.sample_spec(), self.test_spec()  # which have rules of their own
        return self
