"""Inference for the page: runs of heads and captions, an index with its model, and sample clips.

Answers contain the input frames of a model as pictures, with its attention and its tokens drawn over them.
"""

from __future__ import annotations

import base64
import io
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.registry import load
from trichord.finetune.loading import TrainedRun, load_run
from trichord.finetune.page.nearest import Nearest
from trichord.finetune.page.predictions import Facts, Prediction
from trichord.finetune.recipe import read_run
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.tasks.registry import TASKS
from trichord.finetune.tasks.spec import TaskSpec
from trichord.finetune.token_maps.maps import VideoEncoder, attended_places, main_directions, video_encoder_of
from trichord.finetune.token_maps.visualise import Pixels, colours_over, frames_of, heat_over
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.shards.decoding.track import Deadline, DecodeLimits
from trichord.shards.decoding.video import open_video
from trichord.shards.reading.batch import Batch
from trichord.shards.record import RawSample
from trichord.shards.sample import batch_of, pick_samples

_SAMPLES = 6
_LONGEST_SAMPLE_BYTES = 32 << 20


@dataclass(frozen=True)
class LimitsOfClient(DecodeLimits):
    """Limits of a video whose decoding stops when no one waits for it any more."""

    is_gone: Callable[[], bool] = lambda: False

    def start(self) -> Deadline:
        """Start the clock for one sample."""
        return _DeadlineOfClient(self)

    def check_client(self) -> None:
        """Raise SampleError if no one waits for the answer."""
        if self.is_gone():
            raise SampleError(Cause.TIMEOUT, "its client is gone")


class _DeadlineOfClient(Deadline):
    def __init__(self, limits: LimitsOfClient) -> None:
        super().__init__(limits.timeout_s)
        self._limits = limits

    def check(self) -> None:
        self._limits.check_client()
        super().check()


class VideoInference:
    """Inference with all runs on one video after another; used by one thread."""

    def __init__(self, runs: Sequence[Path], index: Path | None, limits: DecodeLimits, device: torch.device) -> None:
        self.limits = limits
        self.runs = [_loaded(run, device) for run in runs]
        self.tasks = [(each, spec) for each in self.runs if isinstance(spec := each.config.objective, TaskSpec)]
        embedders = [Embedder.load(each.run, device) for each in self.runs if _makes_vectors(each)]
        self.nearest = None if index is None else Nearest.open(index, embedders, device)

    def predict(self, raw: RawSample, is_gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Return the answers of all runs for a video; raise SampleError for one that cannot be used.

        Stop with a SampleError, between runs or while decoding, when `is_gone` returns that no one waits for it.
        """
        limits = LimitsOfClient(**vars(self.limits), is_gone=is_gone)
        facts = _facts(raw, limits)
        answer: dict[str, Any] = {"video": facts.as_json()}
        answer |= {task.page_section: [] for task in TASKS.values() if task.page_section}
        clips = []
        for opened, spec in self.tasks:
            if spec.page_predicts is None or spec.page_section is None:
                continue
            limits.check_client()
            found: Prediction = load(spec.page_predicts)(opened, raw, facts, limits)
            answer[spec.page_section].append(found.answer)
            if found.clip is not None and "video" in spec.parts:
                clips.append((opened, found.clip))
        limits.check_client()
        if clips:
            opened, clip = clips[0]
            answer["map"] = draw_maps(video_encoder_of(opened), clip.batch, clip.view, clip.clip_s, opened.run.name)
        else:
            answer["map"] = self._map_of_whole(raw, limits)
        answer["nearest"] = self.nearest.to_video(raw, limits) if self.nearest else None
        return answer

    def about(self) -> list[dict[str, Any]]:
        """Return a description of each run."""
        return [_about(each) for each in self.runs]

    def _map_of_whole(self, raw: RawSample, limits: DecodeLimits) -> dict[str, Any] | None:
        """Draw maps of the first run with video over the whole video, for when no head selects a clip."""
        for opened in self.runs:
            if opened.config.backbone is not None:
                encoder: VideoEncoder = video_encoder_of(opened)
                batch = batch_of(raw, encoder.spec, limits)
                return draw_maps(encoder, batch, 0, (0.0, batch.timeline[0].duration_s), opened.run.name)
        return None


def _facts(raw: RawSample, limits: DecodeLimits) -> Facts:
    """Return the properties of a video; raise SampleError for one that is broken or beyond the limits."""
    video = open_video(raw.video(), limits)
    return Facts(
        video.duration_s,
        len(video),
        video.frames_per_second,
        video.width,
        video.height,
        video.has_sound,
    )


def samples_of(source: str | None, runs: Sequence[Path]) -> list[RawSample]:
    """Read a few clips of a shard set, by default of the first run whose training set still exists."""
    sources = [source] if source is not None else [each for run in runs for each in _trained_on(run)]
    for each in sources:
        try:
            found = list(itertools.islice(pick_samples(each, _SAMPLES), _SAMPLES))
        except (UserError, SampleError) as error:
            if source is not None:
                raise UserError(f"--samples {source}: {error}") from error
            continue
        return [raw for raw in found if _can_be_shown(raw)]
    return []


def _can_be_shown(raw: RawSample) -> bool:
    try:
        raw.annotation()
        return len(raw.video()) <= _LONGEST_SAMPLE_BYTES
    except SampleError:
        return False


def _trained_on(run: Path) -> list[str]:
    """Return the training sets of a run that are local folders."""
    sources = (read_run(run).get("data") or {}).get("sources") or []
    return [str(each["root"]) for each in sources if isinstance(each, dict) and Path(str(each.get("root"))).is_dir()]


def _loaded(run: Path, device: torch.device) -> TrainedRun:
    print(f"loading {run}", file=sys.stderr, flush=True)
    return load_run(run, device)


def _makes_vectors(opened: TrainedRun) -> bool:
    return isinstance(opened.objective, VideoTextObjective) and not opened.objective.video.has_prompts


def _about(opened: TrainedRun) -> dict[str, Any]:
    spec = opened.config.objective
    backbones = [each for each in opened.objective.modules() if isinstance(each, Backbone)]
    return {
        "name": opened.run.name,
        "kind": spec.kind,
        "backbone": getattr(opened.config.backbone, "kind", None),
        "parameters": sum(each.numel() for each in backbones[0].parameters()) if backbones else 0,
        "step": opened.step,
        "classes": list(spec.class_names) if isinstance(spec, TaskSpec) and spec.class_names else None,
    }


_MOST_FRAMES = 8
_QUALITY = 85


def draw_maps(encoder: VideoEncoder, batch: Batch, view: int, clip_s: tuple[float, float], run: str) -> dict[str, Any]:
    """Return a clip's frames with their times: each unchanged, with attended places, and with tokens as colours."""
    frames_THWC = frames_of(batch, view)
    pixels_BCTHW = encoder.normalisation(batch.video[view].to(next(encoder.backbone.parameters()).device))
    places = attended_places(encoder.backbone, pixels_BCTHW)
    heat_THWC = heat_over(frames_THWC, places.weight_Bthw[0])
    parts_THWC = colours_over(frames_THWC, main_directions(encoder.backbone, pixels_BCTHW)[0])
    start_s, end_s = clip_s
    frames = len(frames_THWC)
    shown = np.unique(np.linspace(0, frames - 1, _MOST_FRAMES).round().astype(int)).tolist()
    return {
        "run": run,
        "kind": places.kind,
        "start_s": start_s,
        "end_s": end_s,
        "frames": [
            {
                "at_s": start_s + (place + 0.5) * (end_s - start_s) / frames,
                "frame": _as_address(frames_THWC[place]),
                "places": _as_address(heat_THWC[place]),
                "parts": _as_address(parts_THWC[place]),
            }
            for place in shown
        ],
    }


def _as_address(frame_HWC: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
