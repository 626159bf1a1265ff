"""All of a sound file is read, also one so short that it is a single packet."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shards import media
from trichord.finetune.retrieval.media import read_sound
from trichord.shards.audio.sound_specs import KaldiFbank
from trichord.shards.audio.spectrogram import spectrogram


@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_a_file_is_read_to_its_end(tmp_path: Path, seconds: float) -> None:
    samples_N = (media.tone(seconds, 16000, 300.0) * 32767).astype(np.int16)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples_N.tobytes())
    sound = KaldiFbank(frames=None)
    expected_TM = spectrogram(sound, samples_N.astype(np.float32) / 32768)
    torch.testing.assert_close(read_sound(tmp_path / "sound.wav", sound, None), expected_TM)
