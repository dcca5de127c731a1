"""The averaged weights that one samples with."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_of_system: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # System -> Ema


class Ema:
    """An exponential moving average of trained parameters, kept in float32 on their device.

    After update k = 1, 2, …:   ema ← d_k·ema + (1−d_k)·weights,   d_k = min(decay, k / (9 + k))

    so that the window is about a ninth of the run at first (k/9 updates) and 1/(1−decay) updates at last: the start
    is forgotten however short the run is. Beyond k = 64 only every fourth update is taken in, with d_k⁴: the same
    average for a quarter of the memory traffic, which on a CPU is 2 % of a small network's step. Buffers are not
    averaged: the system's own are used.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.average = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Takes in the weights after update number k, counted from 1."""
        every = 1 if k <= 64 else 4
        if k % every == 0:
            weights = [p.detach() for p in self.parameters.values()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - min(self.decay, k / (9 + k)) ** every)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self.average.items():
            value.copy_(tensors[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Weights and average change places, in place: whatever holds the parameters sees it."""
        for p, average in zip(self.parameters.values(), self.average.values(), strict=True):
            raw = p.detach().clone()
            p.copy_(average)
            average.copy_(raw)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        self.swap()
        try:
            yield
        finally:
            self.swap()


def attach(system: nn.Module, ema: Ema | None) -> None:
    """Makes `ema` what `ema_weights(system)` swaps in; None: nothing any more."""
    if ema is None:
        _of_system.pop(system, None)
    else:
        _of_system[system] = ema


@contextmanager
def ema_weights(system: nn.Module) -> Iterator[nn.Module]:
    """Within it, a system under training holds its averaged weights; a system that has none stays as it is."""
    ema = _of_system.get(system)
    if ema is None:
        yield system
        return
    with ema.swapped():
        yield system
