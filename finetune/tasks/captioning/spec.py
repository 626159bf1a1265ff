"""Recipe settings of captioning: the memory, the language model and the decoding; importable without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trichord.core.errors import UserError
from trichord.core.registry import Registry, one_of
from trichord.finetune.tasks.spec import TaskSpec
from trichord.shards.sample_spec import SampleSpec

_DECODING = "trichord.finetune.tasks.captioning.decoding"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemorySpec(_Spec):
    """The tokens of a video that the language model attends to: those of all of its clips, concatenated."""

    tokens: Literal["pooled", "all"] = "all"
    """Tokens of each clip that the language model attends to: the backbone's pooled vector only, or that and its whole
    grid."""
    mapping: Literal["linear", "none"] = "linear"
    """`linear` maps tokens to the width of the language model; `none` leaves them, and needs equal widths."""
    layer_norm: bool = False
    """Apply a layer norm to each token before the mapping."""

    @property
    def words(self) -> str:
        """A short description."""
        which = "all tokens" if self.tokens == "all" else "pooled"
        return which + (", mapped" if self.mapping == "linear" else "")


class LanguageSpec(_Spec):
    """A GPT-2 with cross-attention, by default of the small size; published weights, or trained from scratch."""

    dim: PositiveInt = 768
    """Number of features of a token."""
    depth: PositiveInt = 12
    """Number of transformer blocks."""
    heads: PositiveInt = 12
    """Number of attention heads, which must divide `dim`."""
    positions: PositiveInt = 1024
    """Number of entries of the position table, at least `longest` + 1."""
    vocabulary: Annotated[int, Field(ge=257)] = 50257
    """Number of tokens of the vocabulary: every byte, the mark at both ends of a text, and merged pairs."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate of the language model."""
    weights: str | None = None
    """Folder written by `save_pretrained`, or name on the Hugging Face Hub, of a GPT-2 with its tokenizer; null starts
    from random weights and learns a tokenizer from the captions of `data.sources`."""
    longest: PositiveInt = 64
    """Largest number of tokens of a caption; longer ones are cut in training."""

    @model_validator(mode="after")
    def _is_possible(self) -> LanguageSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.longest + 1 > self.positions:
            raise ValueError(f"longest={self.longest} plus the start mark exceeds positions={self.positions}")
        return self


class DecodingSpec(_Spec, ABC):
    """How captions are decoded."""

    kind: str

    decodes: ClassVar[str]  # "module:function" that decodes texts

    @property
    @abstractmethod
    def words(self) -> str:
        """A short description."""


class GreedySpec(DecodingSpec):
    """The likeliest token at each step."""

    decodes: ClassVar[str] = f"{_DECODING}:greedy"

    kind: Literal["greedy"] = "greedy"

    @property
    def words(self) -> str:
        """A short description."""
        return "greedy"


class BeamSpec(DecodingSpec):
    """Beam search for the text with the highest log-probability over its length to the power of length_penalty."""

    decodes: ClassVar[str] = f"{_DECODING}:beam_search"

    kind: Literal["beam"] = "beam"
    beams: PositiveInt = 3
    """Number of unfinished texts that are followed at a time."""
    length_penalty: NonNegativeFloat = 1.0
    """Power of a text's length by which its log-probability is divided: 0 compares whole texts, 1 compares means over
    tokens, which favours longer texts."""

    @property
    def words(self) -> str:
        """A short description."""
        return f"{self.beams} beams, length penalty {self.length_penalty:g}"


class NucleusSpec(DecodingSpec):
    """Sampling from the likeliest tokens whose probabilities add up to top_p; seeded by the sample's key."""

    decodes: ClassVar[str] = f"{_DECODING}:nucleus"

    kind: Literal["nucleus"] = "nucleus"
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Total probability of the likeliest tokens among which one is drawn; 1 draws from all tokens."""
    temperature: PositiveFloat = 1.0
    """Temperature of the softmax; lower makes likely tokens likelier."""

    @property
    def words(self) -> str:
        """A short description."""
        return f"nucleus sampling, top_p {self.top_p:g}, temperature {self.temperature:g}"


DECODINGS: Registry[type[DecodingSpec]] = Registry(
    "decodings",
    {"greedy": f"{__name__}:GreedySpec", "beam": f"{__name__}:BeamSpec", "nucleus": f"{__name__}:NucleusSpec"},
)
if TYPE_CHECKING:
    AnyDecoding = DecodingSpec
else:
    AnyDecoding = one_of(DECODINGS)


def _renamed(factors: Any) -> Any:
    return "synthetic" if factors == "world" else factors  # its former name, in the configs of older runs


class CaptionSpec(TaskSpec):
    """Captions of videos from a language model with cross-attention to a backbone's tokens."""

    builds: ClassVar[str] = "trichord.finetune.tasks.captioning.model:Captioner.of_run"
    prepares: ClassVar[str] = "trichord.finetune.tasks.captioning.model:prepare"
    evaluates: ClassVar[str] = "trichord.finetune.tasks.captioning.evaluation:evaluate"
    predicts: ClassVar[str] = "trichord.finetune.tasks.captioning.evaluation:predict"
    page_predicts: ClassVar[str] = "trichord.finetune.page.predictions:predict_caption"
    page_section: ClassVar[str] = "captions"
    takes_features: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = (
        *("frozen", "trained", "memory"),
        *(f"language.{name}" for name in ("dim", "depth", "heads", "positions", "vocabulary")),
    )

    kind: Literal["captions"] = "captions"
    inputs: tuple[Literal["video"]] = ("video",)
    """The only modality that captioning takes: video."""
    memory: MemorySpec = MemorySpec()
    """The tokens of a video that the language model attends to."""
    language: LanguageSpec = LanguageSpec()
    """The language model: its size, its weights and the length of captions."""
    trained: tuple[str, ...] = ()
    """Name patterns of parameters of a frozen backbone that are trained nevertheless."""
    decoding: AnyDecoding = BeamSpec()
    """How captions are generated in evaluation and on the web page, selected by `kind`."""
    factors: Annotated[Literal["synthetic"] | None, BeforeValidator(_renamed)] = None
    """`synthetic` also evaluates whether captions name the factors of the synthetic data set; null does not."""
    meteor: bool = False
    """Also compute METEOR in evaluation, which needs Java, the extra `meteor` and 2 GB of memory."""

    @property
    def head_words(self) -> str:
        """A short description of the head on the backbone."""
        origin = f"{self.language.weights}" if self.language.weights else "GPT-2 from scratch"
        return f"{origin} {self.language.depth}x{self.language.dim} on {self.memory.words}"

    @property
    def trained_words(self) -> str:
        """A short description of what is trained."""
        return "all" if not self.frozen else " and ".join(("head", *self.trained))

    @property
    def needs_grid(self) -> bool:
        """Whether the language model needs more of a backbone than its pooled vector."""
        return self.memory.tokens == "all"

    @property
    def clip_count(self) -> int:
        """The number of clips of a video in the memory."""
        return self.clips.clip_count or 0

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain in training: any one of its captions."""
        return super().sample_spec().model_copy(update={"caption": "random"})

    def test_spec(self) -> SampleSpec:
        """Return what a sample must contain in evaluation: all of its captions."""
        return super().test_spec().model_copy(update={"caption": "all", "timeline": False})

    def feature_complaints(self) -> Iterator[str]:
        if self.trained:
            yield "features need a frozen backbone: leave objective.trained or features out"
        else:
            yield from super().feature_complaints()

    def check(self, config: Any) -> str:
        if self.language.weights is not None:
            tokenizer_file(self.language.weights)  # raises unless it exists or can be downloaded
        return super().check(config)

    @model_validator(mode="after")
    def _can_be(self) -> CaptionSpec:
        counts = [each.clip_count for each in (self.clips, self.test_clips)]
        if counts[0] is None or counts[0] != counts[1]:
            words = ["a number that depends on the video" if each is None else each for each in counts]
            raise ValueError(
                f"clips give {words[0]} of a video, and test_clips {words[1]}: the language model needs the same "
                "number in training and in evaluation. Use segments, window or full with equal numbers of clips"
            )
        if max(self.view.crop.count, self.test_view.crop.count) > 1:
            raise ValueError("view and test_view: captions use one crop of each clip, found crop.kind=three")
        if self.trained and not self.frozen:
            raise ValueError("trained selects parameters of a frozen backbone: set frozen=true, or trained=[]")
        self.sample_spec(), self.test_spec()  # which have their own rules
        return self


def find_file(weights: str, file: str) -> Path:
    """Return the path of a file; one on the Hub is downloaded, or taken from the cache."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(weights, file)
    except OSError as error:
        raise UserError(
            f"objective.language.weights={weights}: no {file} ({str(error).splitlines()[0]}). Expected a folder with "
            "config.json, model.safetensors and tokenizer.json, as save_pretrained writes them, or a name on the "
            "Hugging Face Hub. Without a network, download it first on a machine that has one (hf download "
            f"{weights}) and set HF_HUB_OFFLINE=1. With objective.language.weights=null a model is trained from "
            "scratch, which needs no files"
        ) from error
    if path is None:
        raise UserError(f"objective.language.weights={weights}: found no {file}")
    return Path(path)


def tokenizer_file(weights: str) -> Path:
    """Return the path of the tokenizer that belongs to published weights."""
    return find_file(weights, "tokenizer.json")
