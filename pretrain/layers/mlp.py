"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Mlp(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        narrowed: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return narrowed
