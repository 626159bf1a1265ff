"""AdamW's moments by parameter name under any ZeRO stage, so that checkpoints are independent of ranks and stages.

ZeRO 1 and 2 keep a flat partition of a group's moments on each rank, ZeRO 3 a slice of each parameter's moments, and
without ZeRO torch's layout is kept. All are allocated before the first step, because DeepSpeed links the moments of
stages 1 and 2 to their parameters only once, after the first group's first step, when the other groups have none yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamState:
    """The moments of the parameters that an engine trains. Reading is a collective operation on all ranks."""

    def __init__(self, engine: Any, parameters: Mapping[str, nn.Parameter], stage: int) -> None:
        self.stage, self.parameters = stage, dict(parameters)
        self._zero: Any = engine.optimizer
        self._adam: torch.optim.AdamW = engine.optimizer.optimizer if stage else engine.optimizer
        for flat in self._flat():
            self._adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }
        if stage in (1, 2):
            self._zero._lazy_init_hp_params_optimizer_state()

    @property
    def updates(self) -> int:
        """The number of updates in the moments, the same for all parameters."""
        return int(next(iter(self._adam.state.values()))["step"].item())

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._adam.state.values():
            state["step"].fill_(count)

    def read(self, name: str, moment: str) -> Tensor:
        """Return the full moment of one parameter."""
        parameter = self.parameters[name]
        if not self.stage:
            moments: Tensor = self._adam.state[parameter][moment]
            return moments
        from deepspeed.utils import safe_get_full_optimizer_state

        whole: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return whole.reshape(shape_of(parameter))

    def write(self, name: str, moment: str, whole: Tensor) -> None:
        """Set a moment of one parameter; each rank keeps its part."""
        parameter: Any = self.parameters[name]
        if self.stage == 0:
            self._adam.state[parameter][moment].copy_(whole)
        elif self.stage < 3:
            parameter.set_full_hp_param(whole, moment)
        else:
            from deepspeed.utils import safe_set_local_optimizer_state

            safe_set_local_optimizer_state(parameter, _slice_of(parameter, whole), moment)

    def _flat(self) -> list[Any]:
        if self.stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return [flat for group in self._adam.param_groups for flat in group["params"]]


def shape_of(parameter: Any) -> torch.Size:
    """Return a parameter's full shape, even if ZeRO 3 holds it in slices."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _slice_of(parameter: Any, whole: Tensor) -> Tensor:
    """Return this rank's slice; ZeRO 3 pads the last one with zeros."""
    length = parameter.ds_tensor.ds_numel
    padded = torch.zeros(length * parameter.ds_process_group.size(), dtype=whole.dtype)
    padded[: whole.numel()] = whole.flatten()
    start = length * parameter.ds_process_group.rank()
    return padded[start : start + length]
