"""A VTN for audio (after Neimark et al. 2021): the spectrogram is cut into overlapping time slices; an image network
encodes each slice as a greyscale image of all mel filters, and a Longformer attends over slices.

This design has no paper of its own and no published weights. Compute grows linearly with the length of the audio.
Legend: B samples, T frames and M mel filters; D features, t slices of F frames.
"""

from __future__ import annotations

from torch import Tensor

from trichord.pretrain.backbones.audio_vtn import AudioVtnSpec
from trichord.pretrain.backbones.base import AudioBackbone, AudioTokens
from trichord.pretrain.backbones.vtn.model import Vtn


class AudioVtn(AudioBackbone):
    """VTN for audio. The pooled vector is the class token, and the grid has one band with a token for each slice."""

    def __init__(self, spec: AudioVtnSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vtn = Vtn(spec.over_time, colours=1)
        self.dim = self.vtn.dim
        self.layers = self.vtn.layers

    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        if audio_BTM.shape[1] < self.spec.slice_frames:
            raise ValueError(f"expected at least {self.spec.slice_frames} frames, found {audio_BTM.shape[1]}")
        slices_BtMF = audio_BTM.unfold(1, self.spec.slice_frames, self.spec.slice_step)
        return AudioTokens(*self.vtn(slices_BtMF.unsqueeze(1), pooled_only))

    def layer_of(self, name: str) -> int:
        return self.vtn.layer_of(name.removeprefix("vtn."))
