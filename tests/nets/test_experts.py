"""Networks that share the times."""

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.errors import Problem
from phosphene.nets.experts import Experts
from phosphene.parts import part


@part
class Times(nn.Module):
    """x times a number, and a note of the rows that it saw."""

    def __init__(self, by: float, multiple: int):
        super().__init__()
        self.by, self.multiple, self.blocks, self.rows = by, multiple, [nn.Identity()], []

    def forward(self, x, time, cond):
        self.rows.append(len(x))
        return self.by * x + cond.vector


def test_each_time_is_one_networks():
    """At an edge it is the next one's; rows of a batch go each to its own, and come back in their order."""
    nets = [Times(by, m) for by, m in ((1.0, 2), (10.0, 4), (100.0, 1))]
    it = Experts(nets, [500.0, 100.0])
    x, cond = torch.arange(1.0, 6.0)[:, None], Cond(vector=torch.arange(5.0)[:, None] / 1000)
    time = torch.tensor([100.0, 900.0, 500.0, 0.0, 501.0])
    want = torch.tensor([100.0, 2.0, 30.0, 400.0, 5.0])[:, None] + cond.vector
    torch.testing.assert_close(it(x, time, cond), want)
    torch.testing.assert_close(it(x, torch.tensor(300.0), cond), 10 * x + cond.vector)
    assert [net.rows for net in nets] == [[2], [1, 5], [2]]
    assert it.multiple == 4 and len(it.blocks) == 3


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [1.0, 2.0]])
def test_edges_fall(edges):
    with pytest.raises(Problem, match="3 networks want 2 falling edges"):
        Experts([Times(1, 1)] * 3, edges)
