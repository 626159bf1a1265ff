"""Forward and backward computation of the selective scan, one span of steps at a time, with time as the first axis.

Legend: B samples, L steps, E channels, N states, S spans, T steps of a span.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import e, log2
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_SPAN_BYTES = 2 << 20  # of the states of a span, so that they fit the cache, unless _SHORTEST is longer
_SHORTEST = 16  # in steps; at most one state in 16 is saved


class ScanInputs(NamedTuple):
    """The inputs of a scan, in the order of the operator's arguments."""

    inputs_BLE: Tensor
    steps_BLE: Tensor  # before bias and softplus
    decay_EN: Tensor
    write_BLN: Tensor
    read_BLN: Tensor
    skip_E: Tensor
    gate_BLE: Tensor  # before silu
    bias_E: Tensor  # of the steps


class ScanResults(NamedTuple):
    """The output of a scan, and what is saved for the backward pass."""

    out_BLE: Tensor
    ungated_BLE: Tensor
    kept_SBNE: Tensor  # the state before each span


class _Span(NamedTuple):
    """The inputs for the steps of a span, in the dtype of the states."""

    inputs_TBE: Tensor
    raw_steps_TBE: Tensor  # before softplus
    steps_TBE: Tensor
    write_TBN: Tensor
    read_TBN: Tensor
    gate_TBE: Tensor


def empty_results(given: ScanInputs) -> ScanResults:
    """Allocate the results without computing anything, which also works for fake tensors."""
    batch, length, channels = given.inputs_BLE.shape
    kept = (-(-length // span_length(given)), batch, given.decay_EN.shape[1], channels)
    out_BLE = given.inputs_BLE.new_empty(given.inputs_BLE.shape)
    return ScanResults(out_BLE, torch.empty_like(out_BLE), out_BLE.new_empty(kept, dtype=state_type(given)))


def empty_gradients(given: ScanInputs) -> ScanInputs:
    """Allocate the gradients with respect to the inputs."""
    return ScanInputs(*(each.new_empty(each.shape) for each in given))


def state_type(given: ScanInputs) -> torch.dtype:
    """Return the dtype of the states: at least single precision, also for half-precision inputs."""
    return torch.promote_types(given.inputs_BLE.dtype, torch.float32)


def span_length(given: ScanInputs) -> int:
    """Return the number of steps of a span, T."""
    batch, length, channels = given.inputs_BLE.shape
    step_bytes = batch * channels * given.decay_EN.shape[1] * state_type(given).itemsize
    return min(length, max(_SHORTEST, _SPAN_BYTES // step_bytes))


class SpanScan:
    """Runs one scan span by span, in buffers that all spans share."""

    def __init__(self, given: ScanInputs) -> None:
        self.given = given
        self.dtype = state_type(given)
        self.length = given.inputs_BLE.shape[1]
        self.span_length = span_length(given)
        self.decay_NE = given.decay_EN.to(self.dtype).t().contiguous()
        self.halving_NE = self.decay_NE * log2(e)  # exp(x) = 2 ^ (x log2(e)); exp2 is twice as fast
        self.skip_E = given.skip_E.to(self.dtype)
        self.bias_E = given.bias_E.to(self.dtype)
        shape_TBNE = (self.span_length, len(given.inputs_BLE), *self.decay_NE.shape)
        self.decays_TBNE = self.decay_NE.new_empty(shape_TBNE)
        self.states_TBNE = self.decay_NE.new_empty((1 + shape_TBNE[0], *shape_TBNE[1:]))  # the first: before the span

    def forward(self, results: ScanResults) -> None:
        """Write the output and the saved states to `results`."""
        self.states_TBNE[-1] = 0
        for kept_BNE, bounds in zip(results.kept_SBNE, self._bounds(), strict=True):
            kept_BNE.copy_(self.states_TBNE[-1])
            span = self._span(bounds)
            _, states_TBNE = self._run(span, kept_BNE)
            ungated_TBE = _over_states(span.read_TBN, states_TBNE[1:])
            ungated_TBE += span.inputs_TBE * self.skip_E
            _put(results.ungated_BLE, bounds, ungated_TBE)
            _put(results.out_BLE, bounds, ungated_TBE * functional.silu(span.gate_TBE))

    def backward(self, gradient_BLE: Tensor, ungated_BLE: Tensor, kept_SBNE: Tensor, found: ScanInputs) -> None:
        """Write the gradients with respect to the inputs to `found`."""
        by_decay_NE, by_skip_E, by_bias_E = map(torch.zeros_like, (self.decay_NE, self.skip_E, self.bias_E))
        flow_TBNE = torch.empty_like(self.decays_TBNE)
        later_BNE = torch.zeros_like(kept_SBNE[0])
        for kept_BNE, bounds in reversed([*zip(kept_SBNE, self._bounds(), strict=True)]):
            span = self._span(bounds)
            decays_TBNE, states_TBNE = self._run(span, kept_BNE)
            by_out_TBE = self._take(gradient_BLE, bounds)
            sigmoid_TBE = span.gate_TBE.sigmoid()
            by_ungated_TBE = by_out_TBE * span.gate_TBE * sigmoid_TBE
            by_gated_TBE = by_out_TBE * self._take(ungated_BLE, bounds) * sigmoid_TBE
            _put(found.gate_BLE, bounds, by_gated_TBE * (1 + span.gate_TBE * (1 - sigmoid_TBE)))
            _put(found.read_BLN, bounds, _over_channels(by_ungated_TBE, states_TBNE[1:]))

            flow = flow_TBNE[: len(decays_TBNE)]
            torch.mul(by_ungated_TBE.unsqueeze(2), span.read_TBN.unsqueeze(3), out=flow)
            self._run_backward(decays_TBNE, flow, later_BNE)
            written_TBE = span.steps_TBE * span.inputs_TBE
            _put(found.write_BLN, bounds, _over_channels(written_TBE, flow))
            by_written_TBE = _over_states(span.write_TBN, flow)
            by_inputs_TBE = by_written_TBE * span.steps_TBE + by_ungated_TBE * self.skip_E
            _put(found.inputs_BLE, bounds, by_inputs_TBE)
            by_skip_E += (by_ungated_TBE * span.inputs_TBE).sum((0, 1))

            by_exponent_TBNE = decays_TBNE.mul_(states_TBNE[:-1])
            torch.mul(by_exponent_TBNE, self.decay_NE, out=flow)
            by_steps_TBE = flow.sum(2) + by_written_TBE * span.inputs_TBE
            by_steps_TBE *= span.raw_steps_TBE.sigmoid()
            _put(found.steps_BLE, bounds, by_steps_TBE)
            by_bias_E += by_steps_TBE.sum((0, 1))
            by_decay_NE += by_exponent_TBNE.mul_(span.steps_TBE.unsqueeze(2)).sum((0, 1))
        for total, place in ((by_decay_NE.t(), found.decay_EN), (by_skip_E, found.skip_E), (by_bias_E, found.bias_E)):
            place.copy_(total)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        for first in range(0, self.length, self.span_length):
            yield first, min(first + self.span_length, self.length)

    def _take(self, tensor_BL_: Tensor, bounds: tuple[int, int]) -> Tensor:
        return tensor_BL_[:, slice(*bounds)].transpose(0, 1).to(self.dtype)

    def _span(self, bounds: tuple[int, int]) -> _Span:
        given = self.given
        inputs_TBE, raw_TBE, write_TBN, read_TBN, gate_TBE = (
            self._take(tensor, bounds)
            for tensor in (given.inputs_BLE, given.steps_BLE, given.write_BLN, given.read_BLN, given.gate_BLE)
        )
        raw_TBE = raw_TBE + self.bias_E
        return _Span(inputs_TBE, raw_TBE, functional.softplus(raw_TBE), write_TBN, read_TBN, gate_TBE)

    def _run(self, span: _Span, before_BNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of each step of a span, and the states before the span and after each step."""
        decays_TBNE = self.decays_TBNE[: len(span.steps_TBE)]
        states_TBNE = self.states_TBNE[: len(span.steps_TBE) + 1]
        torch.mul(span.steps_TBE.unsqueeze(2), self.halving_NE, out=decays_TBNE).exp2_()
        written_TBE = span.steps_TBE * span.inputs_TBE
        states_TBNE[0] = before_BNE
        torch.mul(written_TBE.unsqueeze(2), span.write_TBN.unsqueeze(3), out=states_TBNE[1:])
        states = states_TBNE.unbind()
        for decay_BNE, before_BNE, state_BNE in zip(decays_TBNE.unbind(), states, states[1:], strict=False):
            state_BNE.addcmul_(decay_BNE, before_BNE)
        return decays_TBNE, states_TBNE

    def _run_backward(self, decays_TBNE: Tensor, flow_TBNE: Tensor, later_BNE: Tensor) -> None:
        """Propagate gradients from each state to the previous one, and replace each decay by its product with them.

        The gradient of the state before the span replaces `later_BNE`, that of the state after it.
        """
        flowing_BNE = later_BNE
        for decay_BNE, flow_BNE in zip(reversed(decays_TBNE.unbind()), reversed(flow_TBNE.unbind()), strict=True):
            flow_BNE += flowing_BNE
            flowing_BNE = decay_BNE.mul_(flow_BNE)
        later_BNE.copy_(flowing_BNE)


def _put(tensor_BL_: Tensor, bounds: tuple[int, int], span_TB_: Tensor) -> None:
    tensor_BL_[:, slice(*bounds)] = span_TB_.transpose(0, 1)


def _over_states(weights_TBN: Tensor, values_TBNE: Tensor) -> Tensor:
    return (weights_TBN.unsqueeze(2) @ values_TBNE).squeeze(2)


def _over_channels(weights_TBE: Tensor, values_TBNE: Tensor) -> Tensor:
    # Row vectors times matrices: as matrices times column vectors, MKL takes ten times as long.
    return (weights_TBE.unsqueeze(2) @ values_TBNE.transpose(2, 3)).squeeze(2)
