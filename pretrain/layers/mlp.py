"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["gelu", "tanh_gelu", "quick_gelu"]


def quick_gelu(inputs: Tensor) -> Tensor:
    """Give OpenAI's x sigmoid(1.702 x), in a form whose way back needs one tensor of that size and not three."""
    outputs: Tensor = functional.silu(1.702 * inputs) / 1.702
    return outputs


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "tanh_gelu": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


class Mlp(nn.Module):
    """Widen, activate, narrow."""

    def __init__(self, dim: int, hidden_dim: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activate = ACTIVATIONS[activation]
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        narrowed: Tensor = self.fc2(self.activate(self.fc1(tokens)))
        return narrowed
