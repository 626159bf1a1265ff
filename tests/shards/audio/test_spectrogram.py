"""Log-mel spectrograms: equal to torchaudio's, with the usual frame counts and the quirks of published weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from trichord.core.seeds import generator
from trichord.shards.audio.sound_specs import (
    KaldiFbank,
    LogMel,
    SoundSpec,
    SpecAugment,
    XdcMel,
    blind_filters,
    stft_edges_hz,
)
from trichord.shards.audio.spectrogram import filters_KF, fit_frames, log_fbank, log_mel, mask, spectrogram

RATE = 16000


def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    time_N = np.arange(2 * RATE) / RATE
    return {
        "noise": rng.normal(0, 0.1, 2 * RATE),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time_N),
        "chirp": np.sin(2 * np.pi * (100 + 1000 * time_N) * time_N),
        "click": np.eye(1, 2 * RATE, 5000)[0],
        "whisper": rng.normal(0, 1e-6, 2 * RATE),
        "silence": np.zeros(2 * RATE),
    }


def torchaudio_fbank(samples_N: Tensor, mels: int = 128, frame_ms: float = 25.0, rate: int = RATE) -> Tensor:
    """The call of AST; for sounds that leave filters empty, the logarithm shows the rounding of the mean."""
    from torchaudio.compliance import kaldi

    centred_N = samples_N - samples_N.double().mean().float()
    return kaldi.fbank(
        centred_N[None],
        htk_compat=True,
        sample_frequency=rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mels,
        dither=0.0,
        frame_shift=10,
        frame_length=frame_ms,
    )


@pytest.mark.parametrize("name", sounds())
def test_fbank_equals_torchaudio(name: str) -> None:
    samples_N = torch.from_numpy(sounds()[name].astype(np.float32))
    ours = log_mel(KaldiFbank(), samples_N[None])[0]
    theirs = torchaudio_fbank(samples_N)
    assert ours.shape == theirs.shape == (198, 128)
    assert float((ours - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize(("mels", "frame_ms", "rate"), [(64, 25.0, 16000), (23, 20.0, 8000), (128, 25.0, 44100)])
def test_fbank_equals_torchaudio_at_other_settings(mels: int, frame_ms: float, rate: int) -> None:
    samples_N = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, rate).astype(np.float32))
    ours = log_mel(KaldiFbank(mels=mels, frame_ms=frame_ms, rate_hz=rate), samples_N[None])[0]
    assert float((ours - torchaudio_fbank(samples_N, mels, frame_ms, rate)).abs().max()) <= 1e-5


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or "MKL_CBWR" in os.environ,
    reason="products are shared out among threads otherwise by other kernels",
)
@pytest.mark.parametrize("spec", [KaldiFbank(), LogMel()], ids=["kaldi_fbank", "log_mel"])
def test_result_does_not_depend_on_the_number_of_threads(spec: SoundSpec) -> None:
    """A rank that reads without workers has more threads than a worker."""
    samples_N = np.random.default_rng(4).normal(0.05, 0.1, 10 * spec.rate_hz).astype(np.float32)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(spectrogram(spec, samples_N))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])


def test_fbank_against_a_loop_over_frames() -> None:
    """Every step is computed in double precision, with the same filters."""
    samples_N = np.random.default_rng(2).normal(0, 0.1, 1200)
    filters = filters_KF(RATE, 512, 40).double().numpy()
    ours = log_fbank(torch.from_numpy(samples_N.astype(np.float32))[None], RATE, 40)[0]
    assert len(ours) == 6
    for frame in range(6):
        piece = samples_N[frame * 160 : frame * 160 + 400]
        piece = piece - piece.mean()
        emphasised = [piece[0] - 0.97 * piece[0]] + [piece[i] - 0.97 * piece[i - 1] for i in range(1, 400)]
        hann = [0.5 - 0.5 * np.cos(2 * np.pi * i / 399) for i in range(400)]
        power = np.abs(np.fft.rfft(np.array(emphasised) * hann, n=512)) ** 2
        assert np.allclose(ours[frame].numpy(), np.log(np.maximum(power @ filters, 1.1920929e-07)), atol=1e-3)


def test_fbank_of_a_batch_equals_that_of_each_sound() -> None:
    batch_BN = torch.from_numpy(np.stack(list(sounds().values())).astype(np.float32))
    together = log_mel(KaldiFbank(), batch_BN)
    for row, samples_N in zip(together, batch_BN, strict=True):
        assert torch.allclose(row, log_mel(KaldiFbank(), samples_N[None])[0], atol=1e-5)


def test_fbank_is_faster_than_torchaudio() -> None:
    """Interleaved, one thread, minimum of many runs; the bound is loose (1.4): `benchmarks reading` prints 2.4."""
    samples_N = torch.from_numpy(sounds()["noise"].astype(np.float32))
    spec = KaldiFbank()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, theirs = [], []
    for _ in range(40):
        began = time.process_time()
        log_mel(spec, samples_N[None])
        middle = time.process_time()
        torchaudio_fbank(samples_N)
        ours.append(middle - began)
        theirs.append(time.process_time() - middle)
    torch.set_num_threads(threads)
    assert min(ours) * 1.4 < min(theirs)


@pytest.mark.parametrize(
    ("seconds", "kaldi", "centred"), [(1, 98, 101), (2, 198, 201), (5, 498, 501), (10, 998, 1001), (10.24, 1022, 1025)]
)
def test_frame_counts(seconds: float, kaldi: int, centred: int) -> None:
    samples = round(seconds * RATE)
    silence_BN = torch.zeros(1, samples)
    for spec, frames in ((KaldiFbank(), kaldi), (LogMel(), centred)):
        assert log_mel(spec, silence_BN).shape == (1, frames, 128)
        assert spec.frame_count(samples) == frames


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 559, 560, 1023, 1024, 1025, 33333])
@pytest.mark.parametrize("spec", [KaldiFbank(), LogMel(), XdcMel()], ids=lambda spec: spec.kind)
def test_frame_count_equals_the_length_of_the_output(spec: SoundSpec, samples: int) -> None:
    """Also for less than one window, where the sound is padded with zeros."""
    audio_BTF = log_mel(spec, torch.full((2, samples), 0.1))
    assert audio_BTF.shape[1] == spec.frame_count(samples) >= 1
    assert torch.isfinite(audio_BTF).all()


def test_ast_divides_by_two_standard_deviations() -> None:
    samples_N = sounds()["noise"].astype(np.float32)
    audio_TF = spectrogram(KaldiFbank(frames=None), samples_N)
    expected = (torchaudio_fbank(torch.from_numpy(samples_N)) + 4.2677393) / (2 * 4.5689974)
    assert torch.allclose(audio_TF, expected, atol=2e-6)


def test_ast_pads_before_normalising() -> None:
    """Padded frames are +0.467 instead of 0, as the published weights expect."""
    audio_TF = spectrogram(KaldiFbank(), sounds()["noise"].astype(np.float32))
    assert audio_TF.shape == (1024, 128)
    assert audio_TF[198:].unique().tolist() == [pytest.approx(4.2677393 / (2 * 4.5689974))]
    assert float(audio_TF[500, 3]) == pytest.approx(0.467, abs=5e-4)


def test_ast_masks_before_normalising() -> None:
    spec = KaldiFbank(frames=198, spec_augment=SpecAugment(frequency_width=40, time_width=60))
    samples_N = sounds()["noise"].astype(np.float32)
    plain, masked = spectrogram(spec, samples_N), spectrogram(spec, samples_N, generator(4, "mask"))
    changed = plain != masked
    assert 0 < float(changed.float().mean()) < 0.7
    assert masked[changed].unique().tolist() == [pytest.approx(0.467, abs=5e-4)]


def test_other_conventions_pad_and_mask_with_their_mean() -> None:
    spec = LogMel(mean=-30.0, std=20.0, frames=300, spec_augment=SpecAugment())
    samples_N = sounds()["noise"].astype(np.float32)
    assert not spectrogram(spec, samples_N)[201:].any()
    plain, masked = spectrogram(spec, samples_N), spectrogram(spec, samples_N, generator(4, "mask"))
    assert not masked[plain != masked].any()


def test_ast_with_128_mels_keeps_its_empty_filter() -> None:
    from torchaudio.compliance import kaldi

    theirs, _ = kaldi.get_mel_banks(128, 512, float(RATE), 20.0, 0.0, 100.0, -500.0, 1.0)
    assert torch.equal(filters_KF(RATE, 512, 128)[:-1].T, theirs)
    assert (theirs.amax(dim=1) == 0).nonzero().flatten().tolist() == [3]
    with pytest.raises(ValidationError, match="of 256 mel filters cover no frequency bin"):
        KaldiFbank(mels=256)


def test_log_mel_equals_torchaudio_sound_by_sound() -> None:
    """The floor is 80 dB below the peak of each sound; AmplitudeToDB on a batch would use the peak of the batch."""
    from torchaudio import transforms

    batch_BN = torch.from_numpy(np.stack([sounds()["tone"], 1e-3 * sounds()["noise"]]).astype(np.float32))
    mel = transforms.MelSpectrogram(RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    decibel = transforms.AmplitudeToDB(top_db=80.0)
    ours = log_mel(LogMel(), batch_BN)
    for row, samples_N in zip(ours, batch_BN, strict=True):
        assert torch.allclose(row.T, decibel(mel(samples_N)), atol=1e-4)
    assert float(ours[0].max() - ours[0].min()) == pytest.approx(80.0, abs=1e-3)


def test_log_mel_range_may_be_unlimited() -> None:
    audio_BTF = log_mel(LogMel(range_db=None), torch.zeros(1, RATE))
    assert audio_BTF.unique().tolist() == [-100.0]


def test_xdc_gives_40_mels_by_100_frames_for_two_seconds() -> None:
    audio_TF = spectrogram(XdcMel(), sounds()["noise"].astype(np.float32))
    assert audio_TF.shape == (100, 40)


def test_xdc_is_the_logarithm_of_a_mel_spectrogram() -> None:
    from torchaudio import transforms

    samples_N = torch.from_numpy(sounds()["noise"].astype(np.float32))
    mel = transforms.MelSpectrogram(RATE, n_fft=1024, win_length=640, hop_length=320, n_mels=40)
    assert torch.allclose(log_mel(XdcMel(), samples_N[None])[0], torch.log(mel(samples_N) + 1e-6).T[:100], atol=1e-5)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("fft_size", [256, 400, 512, 1024])
@pytest.mark.parametrize("mels", [40, 64, 80, 128])
def test_empty_filters_are_those_that_are_all_zero_in_torchaudio(scale: str, fft_size: int, mels: int) -> None:
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = melscale_fbanks(fft_size // 2 + 1, 0.0, RATE / 2, mels, RATE, mel_scale=scale)
    expected = (filters.amax(dim=0) == 0).nonzero().flatten().tolist()
    assert blind_filters(stft_edges_hz(0.0, RATE / 2, mels, scale), RATE, fft_size) == expected


def test_empty_filters_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValidationError, match=r"4 of 128 mel filters .* use fft_size=1024 or mels=(\d+)") as caught:
        LogMel(fft_size=400)
    fewer = int(str(caught.value).split("or mels=")[1].split()[0])
    assert LogMel(fft_size=400, mels=fewer).mels == fewer
    with pytest.raises(ValidationError, match="mel filters"):
        LogMel(fft_size=400, mels=fewer + 1)
    with pytest.raises(ValidationError, match="window_samples 2000 is longer than fft_size 1024"):
        LogMel(window_samples=2000)


def test_spec_augment_is_drawn_per_sample_within_its_widths() -> None:
    spec = SpecAugment(frequency_masks=1, frequency_width=6, time_masks=1, time_width=10)
    audio_TF = torch.ones(40, 20)
    rng = generator(0, "masks")
    patterns, bands, stretches = set(), set(), set()
    for _ in range(600):
        masked = mask(spec, audio_TF, rng, fill=0.0) == 0
        columns, rows = masked.all(dim=0).nonzero().flatten(), masked.all(dim=1).nonzero().flatten()
        for hits in (columns, rows):
            assert len(hits) == 0 or int(hits[-1] - hits[0]) + 1 == len(hits), "one piece"
        bands.add(len(columns))
        stretches.add(len(rows))
        patterns.add(tuple(columns.tolist() + rows.tolist()))
    assert bands == set(range(7)) and stretches == set(range(11))
    assert len(patterns) > 300
    assert torch.equal(audio_TF, torch.ones(40, 20))


def test_evaluation_masks_nothing_and_training_repeats_from_its_seed() -> None:
    spec = KaldiFbank(frames=198, spec_augment=SpecAugment())
    samples_N = sounds()["noise"].astype(np.float32)
    assert torch.equal(spectrogram(spec, samples_N), spectrogram(KaldiFbank(frames=198), samples_N))
    first, again = (spectrogram(spec, samples_N, generator(1, "k")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, spectrogram(spec, samples_N, generator(2, "k")))


def test_mask_wider_than_the_spectrogram() -> None:
    wide = SpecAugment(frequency_width=500, time_width=500)
    for seed in range(20):
        assert mask(wide, torch.ones(5, 4), generator(seed), fill=0.0).shape == (5, 4)


def test_fit_frames_cuts_and_pads_at_the_end() -> None:
    audio_TF = torch.arange(6.0).view(3, 2)
    assert fit_frames(audio_TF, 2, 9.0).tolist() == [[0, 1], [2, 3]]
    assert fit_frames(audio_TF, 4, 9.0).tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
    assert fit_frames(audio_TF, None, 9.0) is audio_TF


def test_sound_in_the_wrong_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="expected float mono samples"):
        spectrogram(KaldiFbank(), np.zeros(16000, dtype=np.int16))
    with pytest.raises(ValueError, match=r"shape \(2, 16000\)"):
        spectrogram(KaldiFbank(), np.zeros((2, 16000), dtype=np.float32))


def test_read_only_sound_is_not_modified() -> None:
    samples_N = sounds()["noise"].astype(np.float32)
    before = samples_N.copy()
    samples_N.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrogram(KaldiFbank(), samples_N)
    assert np.array_equal(samples_N, before)


def test_specs_are_discriminated_by_kind_and_can_be_pickled() -> None:
    adapter: TypeAdapter[SoundSpec] = TypeAdapter(SoundSpec)
    for spec in (KaldiFbank(), LogMel(scale="slaney"), XdcMel(spec_augment=SpecAugment())):
        assert adapter.validate_json(adapter.dump_json(spec)) == spec
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert hash(spec) == hash(spec.model_copy())


def test_torchaudio_is_imported_only_where_it_is_needed() -> None:
    program = (
        "import sys, torch; from trichord.shards.audio.spectrogram import log_mel; "
        "from trichord.shards.audio.sound_specs import KaldiFbank; "
        "log_mel(KaldiFbank(), torch.zeros(1, 400)); assert 'torchaudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
