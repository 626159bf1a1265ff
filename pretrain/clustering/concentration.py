"""How sharply each prototype is contrasted: a temperature for every cluster, lower where its rows lie close together.

Li et al. 2021, "Prototypical Contrastive Learning", section 3.3: phi_c = sum_i |v_i - c| / (n_c log(n_c + alpha)).
Legend: K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST, _HIGHEST = 0.1, 0.9  # quantiles beyond which no cluster goes


@torch.no_grad()
def concentration(distances_K: Tensor, counts_K: Tensor, temperature: float, alpha: float = 10.0) -> Tensor:
    """Give temperatures whose mean is `temperature`, from sums of distances to centroids and numbers of rows.

    The distances are not squared. Of one row or none nothing can be said, so such clusters are as wide as the widest.
    """
    counts_K = counts_K.double()
    phi_K = distances_K.double() / (counts_K.clamp(min=1) * torch.log(counts_K + alpha))
    phi_K = torch.where(counts_K > 1, phi_K, 0.0)
    phi_K = torch.where(counts_K > 1, phi_K, phi_K.max())
    quantiles = torch.tensor([_LOWEST, _HIGHEST], dtype=phi_K.dtype, device=phi_K.device)
    lowest, highest = torch.quantile(phi_K, quantiles)
    phi_K = phi_K.clamp(lowest, highest)
    if not phi_K.any():  # every row is a centroid
        return torch.full_like(phi_K, temperature).float()
    return (phi_K * (temperature / phi_K.mean())).float()
