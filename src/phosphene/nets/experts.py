"""Several networks that share the times among them: each is an expert for its noise (eDiff-I; karlo's upsampler)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..errors import Problem
from ..parts import part


@part
class Experts(nn.Module):
    """nets[i] sees times above edges[i], the last one all that is left; edges, of the networks' own time, fall.

    Raises Problem for edges that do not fall, or are not one fewer than the networks.
    """

    def __init__(self, nets: Sequence[nn.Module], edges: Sequence[float]):
        super().__init__()
        if len(nets) != len(edges) + 1 or any(a <= b for a, b in pairwise(edges)):
            raise Problem(f"{len(nets)} networks want {len(nets) - 1} falling edges between them, not {list(edges)}")
        self.nets, self.edges = nn.ModuleList(nets), list(edges)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for net in self.nets for block in net.blocks]  # type: ignore[union-attr]

    @property
    def multiple(self) -> int:
        return max(int(net.multiple) for net in self.nets)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        which = sum((time <= edge).long() for edge in self.edges) + torch.zeros_like(time, dtype=torch.long)
        if len(found := which.unique().tolist()) == 1:
            return self.nets[found[0]](x, time, cond)
        order = [(which == k).nonzero()[:, 0] for k in found]  # rows of a batch at several times
        made = [self.nets[k](x[rows], time[rows], cond[rows]) for k, rows in zip(found, order)]
        return torch.cat(made)[torch.cat(order).argsort()]
