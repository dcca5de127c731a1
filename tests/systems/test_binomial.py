"""The binomial diffusion against brute force: every path of tiny chains of bits is summed over."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from phosphene.errors import Problem
from phosphene.metrics.likelihood import bits
from phosphene.parts import part
from phosphene.systems.base import Batch
from phosphene.systems.binomial import Binomial
from phosphene.weights import bundle

T = 4


@part
class Table(nn.Module):
    """Log-odds of both bits of a 1×2 picture by (t, x), at random: bits that lean on each other."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.odds = nn.Parameter(torch.randn(T, 4, 2, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, time, cond):
        row = ((x[:, 0, 0] + 1) / 2).long() @ torch.tensor([2, 1])
        return self.odds[time.long().expand(len(x)), row][:, None, None]  # (B, 1, 1, 2)


@part
class One(nn.Module):
    """The exact log-odds of one bit, which is 1 with probability `share`, given x_t: prior and evidence add."""

    multiple = 1

    def __init__(self, share: float = 0.7, T: int = 10):
        super().__init__()
        self.prior, self.T = nn.Parameter(torch.tensor(math.log(share / (1 - share)))), T

    def forward(self, x, time, cond):
        keep = (1 - (time + 1) / self.T).view(-1, 1, 1, 1)
        return self.prior + 2 * torch.atanh(keep * x)


def step(x: int, before: int, t: int) -> float:
    """q(x_t | x_{t−1}) of bits 0 and 1, as the paper writes it: B(x_{t−1}·(1 − β_t) + 0.5·β_t)."""
    beta = 1 / (T - t + 1)
    one = before * (1 - beta) + 0.5 * beta
    return one if x else 1 - one


def spin(bit: int) -> torch.Tensor:
    return torch.tensor(2.0 * bit - 1)


@pytest.mark.parametrize("t, s", [(t, s) for t in range(1, T + 1) for s in range(t)])
def test_the_posterior_is_bayes_over_all_paths(t, s):
    system = Binomial(Table(), T)
    for x0, x in itertools.product((0, 1), repeat=2):
        mass = {0: 0.0, 1: 0.0}  # of x_s
        for between in itertools.product((0, 1), repeat=t - 1):
            path = (x0, *between, x)
            mass[path[s]] += math.prod(step(path[k], path[k - 1], k) for k in range(1, t + 1))
        mean = float(system.posterior(spin(x), spin(x0), t, s))
        assert (1 + mean) / 2 == pytest.approx(mass[1] / sum(mass.values()), abs=1e-6)
        jump = (1 + float(system.keep(t) * spin(x0) * spin(x))) / 2  # q(x_t | x0) in one go
        assert jump == pytest.approx(sum(mass.values()), abs=1e-6)


def transition(system: Binomial, x: tuple[int, ...], t: int) -> dict[tuple[int, ...], float]:
    """p(x_{t−1} | x_t) of all four pictures of two bits."""
    means, _ = system.reverse(torch.stack([spin(b) for b in x]).view(1, 1, 1, 2), t, t - 1)
    ones = ((1 + means) / 2).flatten().tolist()
    each = lambda y: math.prod(p if bit else 1 - p for bit, p in zip(y, ones, strict=True))  # noqa: E731
    return {y: each(y) for y in itertools.product((0, 1), repeat=2)}


@torch.no_grad()
def test_the_bound_is_above_the_exact_likelihood_and_what_its_definition_says():
    """−log p(x0) by summing over every path; the bound as E_q[log q(x_1…x_T | x0) − log p(x_0…x_T)] over the same."""
    system = Binomial(Table(), T)
    pictures = list(itertools.product((0, 1), repeat=2))
    back = {(t, x): transition(system, x, t) for t in range(1, T + 1) for x in pictures}
    whole = 0.0
    for x0 in pictures:
        exact, defined = 0.0, 0.0
        for path in itertools.product(pictures, repeat=T):
            chain = (x0, *path)
            p = 0.25 * math.prod(back[t, chain[t]][chain[t - 1]] for t in range(1, T + 1))
            q = math.prod(step(chain[t][i], chain[t - 1][i], t) for t in range(1, T + 1) for i in (0, 1))
            exact += p
            defined += q * math.log(q / p)
        whole += exact
        assert defined > -math.log(exact) + 1e-3  # the network is no true reversal
        picture = torch.tensor([[[2.0 * b - 1 for b in x0]]]).expand(20_000, 1, 1, 2)
        ours = 2 * system.bound(picture).total  # nats a bit, two bits
        assert float(ours.mean()) == pytest.approx(defined, abs=5 * float(ours.std()) / 20_000**0.5)
    assert whole == pytest.approx(1, abs=1e-5)  # p is a distribution


def test_the_bound_is_tight_where_the_reversal_is_exact():
    """A bit by itself: the expected bound is its entropy, and the loss's expectation is the bound."""
    system, share = Binomial(One(), 10, size=1), 0.7
    x0 = torch.where(torch.rand(40_000, generator=torch.Generator().manual_seed(1)) < share, 1.0, -1.0)
    x0 = x0.view(-1, 1, 1, 1)
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    bound = system.bound(x0)
    assert float(bound.total.mean()) == pytest.approx(entropy, abs=0.02)
    assert torch.equal(bits(system, x0), bound.total.double() / math.log(2))
    torch.manual_seed(0)
    loss = system.loss(Batch(x0, [None] * len(x0), torch.arange(len(x0))))
    assert float(loss.total.detach()) == pytest.approx(entropy, abs=0.03)
    loss.total.backward()
    assert abs(float(system.net.prior.grad)) < 0.05  # the truth is a minimum


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_samples_have_the_shares_of_the_data(steps):
    system = Binomial(One(), 10, size=1)
    *_, last = system.generate([None] * 3000, seeds=range(3000), steps=steps)
    made = last.picture()
    assert made.shape == (3000, 3, 1, 1) and set(made.unique().tolist()) == {-1.0, 1.0}
    assert float((made[:, 0] > 0).float().mean()) == pytest.approx(0.7, abs=4 * (0.21 / 3000) ** 0.5)


def test_a_picture_is_its_seeds_and_a_file_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.KINDS, "Table", Table)
    system = Binomial(Table(), T)
    bundle.save(system, tmp_path / "it.safetensors")
    system, again = bundle.load(tmp_path / "it.safetensors"), system

    def made(system, *seeds, **how):
        *_, last = system.generate([None] * len(seeds), seeds=seeds, size=(1, 2), **how)
        return last.picture()

    together = made(system, *range(40))
    assert torch.equal(together[7:8], made(again, 7)) and len(together.unique(dim=0)) == 4
    previews = list(system.generate([None], seeds=[1], size=(1, 2), steps=3))
    assert [(p.index, p.total) for p in previews] == [(0, 3), (1, 3), (2, 3)]
    assert previews[0].picture().abs().max() < 1  # on the way the guess is shown, at the end the bits


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"steps": 5}, "T=4"),
        ({"steps": 0}, "T=4"),
        ({"sampler": "ddim"}, "'sampler'"),
        ({"guidance": 2.0}, "'guidance'"),
        ({"strength": 0.5}, "Known: noise, size, steps"),
        ({"seeds": [1, 2]}, "2 seeds"),
        ({"size": (0, 2)}, "0x2"),
    ],
)
def test_what_cannot_be(wrong, says):
    with pytest.raises(Problem, match=says):
        next(Binomial(Table(), T).generate([None], **{"seeds": [1], "size": (1, 2), **wrong}))
    with pytest.raises(Problem, match="at least 1"):
        Binomial(Table(), 0)
