"""A trained model of any kind, loaded for use: embeddings, zero-shot classification, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.api import checks
from trichord.api.inputs import Sound, Video, samples_of, several, video_batches
from trichord.api.loaded import Loaded, LoadedRun, LoadedVideoText
from trichord.core.command import validated
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import read_config
from trichord.finetune.loading import load_run
from trichord.finetune.recipe import read_run
from trichord.finetune.zeroshot.classifier import probabilities
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.shards.audio.spectrogram import spectrogram
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.root import allow_typed
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.sample import ClipTransform

Returned: TypeAlias = Literal["np", "pt"]


class Features(NamedTuple):
    """Vectors of the usable clips of a shard set, in its order, with the clips' keys, labels and captions."""

    vectors: NDArray[np.float32]  # one row for each clip
    keys: list[str]
    labels: list[tuple[int, ...]]
    captions: list[str]


def load_model(
    source: str | Path,
    *,
    part: str | None = None,
    backbone: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load a trained model in evaluation mode.

    Args:
        source: A run folder, whose newest complete checkpoint is used, or a file of X-CLIP or CLIP weights. For the
            weights of a backbone alone, use `create_backbone` and `load_weights`.
        part: The part to load from a file that holds several, such as ``student`` or ``teacher``.
        backbone: Settings that the shapes in a file do not determine, such as ``{"activation": "gelu"}`` for most
            open_clip models.
        device: Where to compute (default: a GPU if there is one, otherwise the CPU).

    Example:
        >>> import trichord
        >>> model = trichord.load_model("runs/video_text")
        >>> model.zeroshot("clip.mp4", ["opening a box", "jumping"])
        {'jumping': 0.91, 'opening a box': 0.09}
    """
    path, chosen = Path(source), checks.device(device)
    if not path.exists():
        raise UserError(
            f"{source}: no such run folder or file. Next: trichord status, which lists runs; or "
            "trichord.create_backbone(name) for a network without trained weights"
        )
    if RunFolder(path).is_run and (part or backbone):
        raise UserError(f"{source} is a run, which has its own settings: part and backbone are for files of weights")
    if RunFolder(path).is_run and read_config(read_run(path)).text_backbone is None:
        return Model(LoadedRun(path, chosen, load_run(path, chosen)))
    return Model(LoadedVideoText(path, chosen, load_video_text(path, part, backbone)))


class Model:
    """A trained model; `load_model` creates one.

    What it can do depends on what was trained: every model with a video backbone embeds videos, a model of video and
    text also embeds texts and classifies without training, a head predicts classes, a captioner writes captions. A
    method that the model does not support raises `UserError`.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def __repr__(self) -> str:
        return repr(self._loaded)

    def embed_video(
        self,
        videos: Video | Sequence[Video],
        *,
        fps: float = 30.0,
        batch_size: int = 8,
        return_tensors: Returned = "np",
    ) -> Any:
        """Return one vector for each video.

        A model of video and text returns vectors of length 1 in the space that it shares with texts; any other
        returns its backbone's pooled features. Frames are taken from equal parts of the whole video.

        Args:
            videos: A file name, or uint8 frames of the shape (T, H, W, 3) or (T, 3, H, W) as an array or tensor; or
                several as a list, or frames with a first dimension for the videos.
            fps: Frames per second of frames given as arrays.
            batch_size: Videos per forward pass.
            return_tensors: ``"np"`` for a NumPy array, ``"pt"`` for a tensor on the model's device.

        Returns:
            The vector of a single video, or a row for each of several.

        Example:
            >>> model.embed_video(["a.mp4", "b.mp4"]).shape
            (2, 512)
        """
        given, is_one = several(videos, 4)
        spec, encode = self._loaded.video()
        rows = [encode(batch.video[0]) for batch in video_batches(given, spec, fps, batch_size)]
        return _returned(rows, is_one, return_tensors)

    def embed_text(self, texts: str | Sequence[str], *, return_tensors: Returned = "np") -> Any:
        """Return one vector of length 1 for each text, in the space of the videos.

        Args:
            texts: A text, or several as a list.
            return_tensors: ``"np"`` for a NumPy array, ``"pt"`` for a tensor on the model's device.

        Example:
            >>> similarity = model.embed_video("clip.mp4") @ model.embed_text("a person opens a box")
        """
        is_one = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else checks.texts("texts", texts)
        encode = self._loaded.text()
        return _returned([encode(given)] if given else [], is_one, return_tensors)

    def embed_audio(
        self, sounds: Sound | Sequence[Sound], *, rate_hz: int = 16000, return_tensors: Returned = "np"
    ) -> Any:
        """Return one vector for each sound.

        A model of video, text and audio returns vectors of length 1 in their common space; any other returns its
        audio backbone's pooled features.

        Args:
            sounds: The name of an audio or video file, or samples between -1 and 1 of the shape (N,) or
                (channels, N) as a floating-point array or tensor; or several as a list.
            rate_hz: Samples per second of sounds given as arrays.
            return_tensors: ``"np"`` for a NumPy array, ``"pt"`` for a tensor on the model's device.

        Example:
            >>> model.embed_audio("clip.mp4", return_tensors="pt").shape
            torch.Size([512])
        """
        given, is_one = several(sounds, 2)
        sound_spec, seconds, encode, encode_file = self._loaded.audio()
        rows = [
            encode_file(Path(sound))
            if isinstance(sound, str | Path)
            else encode(spectrogram(sound_spec, samples_of(sound, rate_hz, sound_spec.rate_hz, seconds))[None])
            for sound in given
        ]
        return _returned(rows, is_one, return_tensors)

    def embed_shards(self, shards: str | Path, *, batch_size: int = 8, workers: int = 0) -> Features:
        """Embed the videos of a shard set, and return the vectors with the clips' keys, labels and captions.

        Everything is kept in memory. For large sets, or several jobs, use `embed`, which writes files.

        Args:
            shards: Folder or address of shards with their manifest.
            batch_size: Clips per forward pass.
            workers: Processes that decode (0: this one); a script must then start behind
                ``if __name__ == "__main__"``.

        Example:
            >>> features = model.embed_shards("shards/train")
            >>> features.vectors.shape, features.labels[0]
            ((2400, 512), (3,))
        """
        checks.at_least(1, batch_size=batch_size)
        checks.at_least(0, workers=workers)
        allow_typed([shards])
        spec, encode = self._loaded.video()
        config = StreamConfig(sources=(SourceConfig(root=str(shards)),), batch_size=batch_size, workers=workers)
        stream = evaluation_batches(config, ClipTransform(spec.model_copy(update={"caption": "first"})))
        rows, keys, labels, captions = [], list[str](), list[tuple[int, ...]](), list[str]()
        try:
            for batch in stream:
                usable = batch.valid.nonzero()[:, 0].tolist()
                rows.append(encode(batch.video[0])[usable].cpu())
                keys += [batch.key[row] for row in usable]
                labels += [batch.labels[row] for row in usable]
                captions += [batch.text[row] for row in usable]
        finally:
            stream.close()
        return Features(torch.cat(rows).numpy(), keys, labels, captions)

    def zeroshot(
        self,
        videos: Video | Sequence[Video],
        labels: Sequence[str],
        *,
        fps: float = 30.0,
        batch_size: int = 8,
        **settings: Any,
    ) -> Any:
        """Classify videos among texts, without training.

        Args:
            videos: A video or several, as in `embed_video`.
            labels: The candidate labels.
            fps: Frames per second of frames given as arrays.
            batch_size: Videos per forward pass.
            settings: Prompts, views and averaging: ``prompts`` (a set such as ``"openai_kinetics700"``, or a text that
                contains ``{}``), ``clips``, ``crops``, ``frames``, ``ensemble``, ``average``, ``names_as``.

        Returns:
            The probability of each label, the likeliest first; for several videos, a list of these.

        Example:
            >>> model.zeroshot("clip.mp4", ["opening a box", "jumping"], prompts="a video of {}", clips=4)
            {'opening a box': 0.88, 'jumping': 0.12}
        """
        recogniser = self._loaded.recogniser()
        given, is_one = several(videos, 4)
        spec = validated("zeroshot", settings, ZeroShotSpec)
        labels = checks.texts("labels", labels)
        classifier = recogniser.last_classifier(labels, spec)  # so that a loop over videos encodes the labels once
        found = []
        for batch in video_batches(given, recogniser.opened.transforms.sample_spec(spec), fps, batch_size):
            with torch.no_grad():
                scores_BK = probabilities(recogniser.logits(batch.video, classifier), spec)
            for scores_K in scores_BK.tolist():
                ranked = sorted(zip(labels, scores_K, strict=True), key=lambda each: -each[1])
                found.append(dict(ranked))
        return found[0] if is_one else found

    def predict(self, videos: Video | Sequence[Video], *, fps: float = 30.0, batch_size: int = 8) -> Any:
        """Return what a head or a captioner predicts, with the views of the run's evaluation.

        Args:
            videos: A video or several, as in `embed_video`; for a head that takes sound, names of video files.
            fps: Frames per second of frames given as arrays.
            batch_size: Videos per forward pass.

        Returns:
            For a classification, the score of each class, the highest first; for a captioner, the caption; for the
            task of a plug-in, what its `predicts` returns. For several videos, a list of these.

        Example:
            >>> trichord.load_model("runs/probe").predict("clip.mp4")
            {'spin': 0.71, 'grow': 0.2, 'blink': 0.09}
        """
        spec, predict = self._loaded.predictor()
        given, is_one = several(videos, 4)
        found = [each for batch in video_batches(given, spec, fps, batch_size) for each in predict(batch)]
        return found[0] if is_one else found


def _returned(rows: Sequence[Tensor], is_one: bool, kind: Returned) -> Any:
    if kind not in ("np", "pt"):
        raise UserError(f"return_tensors={kind!r}: expected 'np' or 'pt'")
    if not rows:
        raise UserError("expected at least one input, found an empty list")
    joined = torch.cat(list(rows))
    joined = joined[0] if is_one else joined
    return joined if kind == "pt" else joined.cpu().numpy()
