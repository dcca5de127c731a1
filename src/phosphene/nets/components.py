"""Principal components of embeddings: how much of what an embedding says is in its first numbers (unCLIP, §3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..parts import part


@part
class Components(nn.Module):
    """Where embeddings (·, dim) lie: their mean, and the directions in which they differ, the most important first.

    Buffers mean (dim,), basis (dim, dim), a row a direction, and variance (dim,) along each.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.eye(dim))
        self.register_buffer("variance", torch.ones(dim))

    @classmethod
    def of(cls, embeddings: Tensor) -> Components:
        """Fitted to embeddings (N, dim): eigenvectors of their covariance."""
        made, it = cls(embeddings.shape[1]), embeddings.detach().double().cpu()
        variance, basis = torch.linalg.eigh(it.T.cov())
        made.mean.copy_(it.mean(0))
        made.basis.copy_(basis.flip(1).T)
        made.variance.copy_(variance.flip(0).clamp(min=0))
        return made

    def first(self, embeddings: Tensor, k: int) -> Tensor:
        """Embeddings (B, dim) as far as the mean and the first k directions tell them, of the lengths they had.

        Raises Problem for a k that is no number of directions.
        """
        if not 1 <= k <= len(self.basis):
            raise Problem(f"components={k}: a number of CLIP's principal components, from 1 to {len(self.basis)}")
        mean, kept = self.mean.to(embeddings), self.basis[:k].to(embeddings)
        told = mean + (embeddings - mean) @ kept.T @ kept
        return F.normalize(told, dim=-1) * embeddings.norm(dim=-1, keepdim=True)
