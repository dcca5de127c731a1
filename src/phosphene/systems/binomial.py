"""Binomial diffusion: a picture of bits is flipped at random until nothing is left (Sohl-Dickstein et al. 2015).

A bit is x = ±1, and a coin that shows it is known by its mean m: P(x) = (1 + m·x)/2. With keep(t) = Π(1 − β_i):

    q(x_t | x_s)      m = a·x_s,  a = keep(t)/keep(s)      B(x_s·(1−β_t) + 0.5·β_t) for s = t − 1 and bits 0, 1; §2.4
    q(x_t | x0)       m = keep(t)·x0                       steps composed are a jump, here too
    q(x_s | x_t, x0)  m = (u + v)/(1 + u·v),  u = keep(s)·x0,  v = a·x_t        by Bayes: the two pieces of evidence add
    p(x_s | x_t)      the mean of that over the network's guess of x0, in its log-odds

β_t = 1/(T − t + 1) takes away the same share of the picture at each step, so keep(t) = 1 − t/T and x_T says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..diffusion.bound import Bound
from ..diffusion.cond import Cond
from ..diffusion.noise import path
from ..diffusion.schedule import onto
from ..errors import Problem, unknown
from ..parts import part
from .base import Batch, Loss, Preview, Prompt, System

SURE = 14.0  # log-odds beyond which a guess is not taken: float32 still tells such a mean from 1


@part
class Binomial(System):
    """Diffusion of pictures (1, size, size) of bits, told nothing, in T steps.

    net        forward(x, time, cond): x (B, 1, H, W) of ±1 → the log-odds of x0's bits, like x; time is t − 1
    threshold  what is brighter, in [−1, 1], is 1
    steps      that `generate` takes unless it is told otherwise; None: all T
    """

    stage = "base"

    def __init__(self, net: nn.Module, T: int = 100, size: int = 32, threshold: float = 0.0, steps: int | None = None):
        super().__init__()
        if int(T) != T or T < 1:
            raise Problem(f"T={T}: a chain has a whole number of steps, at least 1")
        self.net, self.T, self.size, self.threshold, self.steps = net, int(T), size, threshold, steps or int(T)

    def keep(self, t: Tensor | int) -> Tensor:
        """What is left of the picture after t of T steps, 1 … 0: float64 of t's shape."""
        return 1 - torch.as_tensor(t, dtype=torch.float64) / self.T

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] → bits (B, 1, H, W), −1 or 1."""
        return torch.where(pictures.mean(1, keepdim=True) > self.threshold, 1.0, -1.0)

    def decode(self, x: Tensor) -> Tensor:
        """Bits, or their means, as pictures (B, 3, H, W)."""
        return x.expand(-1, 3, -1, -1)

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | int, s: Tensor | int) -> Tensor:
        """The mean of q(x_s | x_t, x0), s < t, like x; t and s are 0-d or (B,)."""
        return together(onto(self.keep(s), x) * x0, onto(self.keep(t) / self.keep(s), x) * x)

    def reverse(self, x: Tensor, t: Tensor | int, s: Tensor | int) -> tuple[Tensor, Tensor]:
        """The mean of p(x_s | x_t), and the guess of x0: both like x, from −1 to 1."""
        t = torch.as_tensor(t)
        odds = self.net(x, (t - 1).to(x.device, x.dtype), Cond()).to(x.dtype)
        guess = (odds.clamp(-SURE, SURE) / 2).tanh()
        one, other = (self.posterior(x, bit * torch.ones_like(x), t, s) for bit in (1, -1))
        return ((1 + guess) * one + (1 - guess) * other) / 2, guess

    def term(self, x0: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)), s = t − 1, nats a bit (B,); at t = 1 that is −log p(x0 | x_1).

        z like x0, unit noise: x_t is drawn by it.
        """
        x = drawn(onto(self.keep(t), x0) * x0, z)
        return divergence(self.posterior(x, x0, t, t - 1), self.reverse(x, t, t - 1)[0]).flatten(1).mean(1)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """T·term at a drawn t: its mean is the bound on −log p(x0), in nats a bit of the picture."""
        x0 = self.encode(batch.image)
        t = torch.randint(1, self.T + 1, (len(x0),))
        total = self.T * self.term(x0, t, torch.randn_like(x0)).mean()
        return Loss(total, {"bits": total.detach() / math.log(2)})

    @torch.no_grad()
    def bound(self, pictures: Tensor, seed: int = 0) -> Bound:
        """All T terms on pictures (B, C, H, W), one draw of x_t each, nats a bit; the prior's is 0, as keep(T) = 0."""
        x0, generator = self.encode(pictures.to(self.device, torch.float32)), torch.Generator().manual_seed(seed)
        draw = lambda: torch.randn(x0.shape, generator=generator).to(x0)  # noqa: E731
        terms = [self.term(x0, torch.full((len(x0),), t), draw()) for t in range(1, self.T + 1)]
        found = torch.stack(terms, dim=1)
        return Bound(found.sum(1), torch.zeros_like(found[:, 0]), found)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        noise=None,
        **by_system,
    ) -> Iterator[Preview]:
        """Pictures of bits, a Preview a step: x_s is drawn from p(x_s | x_t) along `steps` of the T entries.

        noise  a path (diffusion/noise.py) in the place of the seeds'. Raises Problem for steps beyond T, a size that
        does not fit, and for what this system has not: guidance, samplers, pictures to start from.
        """
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        for name in [*by_system, *(["sampler"] if sampler else []), *(["guidance"] if guidance else [])]:
            raise unknown("option of a binomial diffusion", name, ("noise", "size", "steps"))
        steps, (height, width) = self.steps if steps is None else steps, size or (self.size, self.size)
        if steps != int(steps) or not 1 <= steps <= self.T:
            raise Problem(f"steps={steps}: this chain has from 1 to T={self.T}")
        if height % self.net.multiple or width % self.net.multiple or min(height, width) < 1:
            raise Problem(f"size {height}x{width}: both sides must be multiples of {self.net.multiple} pixels here")
        noise = noise or path((1, height, width), seeds, self.stage, self.device)
        x = drawn(torch.zeros(()), noise.start().to(self.device))
        times = (torch.arange(steps, -1, -1, dtype=torch.float64) * self.T / steps).round().long()
        for i in range(steps):
            mean, guess = self.reverse(x, times[i], times[i + 1])
            x = drawn(mean, noise(times[i] / self.T, times[i + 1] / self.T).to(x))
            shown = x if i == steps - 1 else guess
            yield Preview(self.stage, i, steps, lambda shown=shown: self.decode(shown))


def together(u: Tensor, v: Tensor) -> Tensor:
    """The mean of a bit of which two independent things say its mean is u, and v: tanh(atanh u + atanh v)."""
    return (u + v) / (1 + u * v)


def drawn(mean: Tensor, z: Tensor) -> Tensor:
    """Bits ±1 with this mean from unit normal noise z: Φ(z) is uniform."""
    return torch.where(torch.special.ndtr(z) < (1 + mean) / 2, 1.0, -1.0).to(z)


def divergence(m: Tensor, n: Tensor) -> Tensor:
    """KL of two coins by their means, in nats: Σ p·log(p/q) over x = ±1, p = (1+m·x)/2, q = (1+n·x)/2, |n| < 1."""
    p, q = (torch.stack([1 + mean, 1 - mean]) / 2 for mean in (m, n))
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(0)
