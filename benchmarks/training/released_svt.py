"""The training step of the released SVT code, written down line by line.

Our step is compared with it, so it has none of our savings: attention with an explicit matrix of scores, one call of
the head with the old weight norm of torch, 18 cross-entropies on log-softmaxes, and a teacher updated tensor by tensor.
Legend: B clips, C colours, T frames, H and W pixels, n places, N rows, L tokens, D features, h heads, k features of a
head, K prototypes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6


class Attention(nn.Module):
    """Self-attention with an explicit matrix of scores."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        rows, length, dim = tokens_NLD.shape
        split = self.qkv(tokens_NLD).reshape(rows, length, 3, self.heads, dim // self.heads)
        queries_NhLk, keys_NhLk, values_NhLk = split.permute(2, 0, 3, 1, 4)
        scores_NhLL = (queries_NhLk @ keys_NhLk.transpose(-2, -1)) * (dim // self.heads) ** -0.5
        answers_NhLk = scores_NhLL.softmax(dim=-1) @ values_NhLk
        mixed_NLD: Tensor = self.proj(answers_NhLk.transpose(1, 2).reshape(rows, length, dim))
        return mixed_NLD


class Mlp(nn.Module):
    """The feed-forward layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        narrowed_BLD: Tensor = self.fc2(functional.gelu(self.fc1(tokens_BLD)))
        return narrowed_BLD


class Block(nn.Module):
    """Temporal attention, spatial attention, MLP; tokens are ordered by place, and by frame within a place."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads)
        self.temporal_norm1 = nn.LayerNorm(dim, eps=EPS)
        self.temporal_attn = Attention(dim, heads)
        self.temporal_fc = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim)

    def forward(self, tokens_BLD: Tensor, frames: int) -> Tensor:
        batch, length, dim = tokens_BLD.shape
        places = (length - 1) // frames
        class_B1D, grid_BLD = tokens_BLD[:, :1], tokens_BLD[:, 1:]
        in_time = self.temporal_attn(self.temporal_norm1(grid_BLD.reshape(batch * places, frames, dim)))
        grid_BLD = grid_BLD + self.temporal_fc(in_time.reshape(batch, places * frames, dim))

        of_frames = grid_BLD.reshape(batch, places, frames, dim).transpose(1, 2).reshape(batch * frames, places, dim)
        classes = class_B1D.repeat(1, frames, 1).reshape(batch * frames, 1, dim)
        in_space = self.attn(self.norm1(torch.cat((classes, of_frames), dim=1)))
        learnt_class_B1D = in_space[:, 0].reshape(batch, frames, dim).mean(dim=1, keepdim=True)
        learnt_grid = in_space[:, 1:].reshape(batch, frames, places, dim).transpose(1, 2)
        learnt_BLD = torch.cat((learnt_class_B1D, learnt_grid.reshape(batch, places * frames, dim)), dim=1)
        tokens_BLD = torch.cat((class_B1D, grid_BLD), dim=1) + learnt_BLD
        widened_BLD: Tensor = self.mlp(self.norm2(tokens_BLD))
        return tokens_BLD + widened_BLD


class PatchEmbed(nn.Module):
    """Patches of single frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=16, stride=16)


class Transformer(nn.Module):
    """The class token of a clip, after the final norm."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 14 * 14, dim))
        self.time_embed = nn.Parameter(torch.zeros(1, 8, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        batch, _, frames, height, width = frames_BCTHW.shape
        pictures = frames_BCTHW.transpose(1, 2).reshape(batch * frames, 3, height, width)
        patches_NnD: Tensor = self.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
        tokens_NLD = torch.cat((self.cls_token.expand(batch * frames, -1, -1), patches_NnD), dim=1)
        tokens_NLD = tokens_NLD + self._places(height // 16, width // 16)
        class_B1D = tokens_NLD[:batch, :1]
        places, dim = patches_NnD.shape[1:]
        grid = tokens_NLD[:, 1:].reshape(batch, frames, places, dim).transpose(1, 2).reshape(-1, frames, dim)
        grid = grid + self._times(frames)
        tokens_BLD = torch.cat((class_B1D, grid.reshape(batch, places * frames, dim)), dim=1)
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, frames)
        pooled_BD: Tensor = self.norm(tokens_BLD)[:, 0]
        return pooled_BD

    def _places(self, rows: int, columns: int) -> Tensor:
        if rows * columns == self.pos_embed.shape[1] - 1:
            return self.pos_embed
        table = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
        table = functional.interpolate(table, size=(rows, columns), mode="nearest").flatten(2).transpose(1, 2)
        return torch.cat((self.pos_embed[:, :1], table), dim=1)

    def _times(self, frames: int) -> Tensor:
        if frames == self.time_embed.shape[1]:
            return self.time_embed
        table = functional.interpolate(self.time_embed.transpose(1, 2), size=frames, mode="nearest")
        return table.transpose(1, 2)


class Head(nn.Module):
    """DINO's head."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and part of what is measured
            self.last_layer = nn.utils.weight_norm(nn.Linear(256, prototypes, bias=False))
        self.last_layer.weight_g.requires_grad = False

    def forward(self, pooled_ND: Tensor) -> Tensor:
        logits_NK: Tensor = self.last_layer(functional.normalize(self.mlp(pooled_ND), dim=-1))
        return logits_NK


class MultiCrop(nn.Module):
    """Call the backbone once for each run of views of one shape, and the head once for all."""

    def __init__(self, dim: int, depth: int, heads: int, prototypes: int) -> None:
        super().__init__()
        self.backbone = Transformer(dim, depth, heads)
        self.head = Head(dim, prototypes)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        pooled, first = [], 0
        for number in range(1, len(views) + 1):
            if number == len(views) or views[number].shape != views[first].shape:
                pooled.append(self.backbone(torch.cat(list(views[first:number]))))
                first = number
        logits_NK: Tensor = self.head(torch.cat(pooled))
        return logits_NK


class Loss(nn.Module):
    """Every teacher view with every other student view, term by term."""

    def __init__(self, views: int, prototypes: int) -> None:
        super().__init__()
        self.views = views
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(1, prototypes))

    def forward(self, student_NK: Tensor, teacher_NK: Tensor) -> Tensor:
        answers = (student_NK / 0.1).chunk(self.views)
        targets = ((teacher_NK - self.centre) / 0.04).softmax(dim=-1).detach().chunk(2)
        total, terms = torch.zeros(()), 0
        for number, target in enumerate(targets):
            for view, answer in enumerate(answers):
                if view != number:
                    total = total + (-target * answer.log_softmax(dim=-1)).sum(dim=-1).mean()
                    terms += 1
        with torch.no_grad():
            mean = teacher_NK.sum(dim=0, keepdim=True) / len(teacher_NK)
            self.centre = self.centre * 0.9 + mean * (1 - 0.9)
        return total / terms


def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Update the moving average, tensor by tensor."""
    with torch.no_grad():
        for new, old in zip(student.parameters(), teacher.parameters(), strict=True):
            old.data.mul_(momentum).add_((1 - momentum) * new.detach().data)
