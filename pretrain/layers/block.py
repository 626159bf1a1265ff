"""The plain block of a vision transformer: attention, then a perceptron, each normalised before and added to what was.

Legend: B samples, L tokens, D features.
"""

from __future__ import annotations

from torch import Tensor, nn

from trichord.pretrain.layers.attention import Attention
from trichord.pretrain.layers.drop_path import DropPath
from trichord.pretrain.layers.mlp import Activation, Mlp

NORM_EPS = 1e-6


class Block(nn.Module):
    """A pre-LN transformer block with stochastic depth."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        drop_path: float,
        activation: Activation = "gelu",
        norm_eps: float = NORM_EPS,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, is_causal)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, mlp_dim, activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BLD: Tensor, class_only: bool = False) -> Tensor:
        """Give all tokens, or the first alone."""
        return self.answer(tokens_BLD, 1 if class_only else tokens_BLD.shape[1])

    def answer(self, tokens_BLD: Tensor, asking: int) -> Tensor:
        """Give the first `asking` tokens, which attend to all."""
        attended_BL1D = self.attn(self.norm1(tokens_BLD).unsqueeze(2), asking)
        tokens_BLD = tokens_BLD[:, :asking] + self.drop_path(attended_BL1D.squeeze(2))
        learnt_BLD: Tensor = self.drop_path(self.mlp(self.norm2(tokens_BLD)))
        return tokens_BLD + learnt_BLD
