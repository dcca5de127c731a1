"""The contract: all that the trainer, the evaluator, the command line and a server ever know of a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

Prompt = str | int | None  # words, a class, or the null prompt


@dataclass
class Batch:
    """Pictures and what is said of them.

    image   (B, 3, H, W) in [-1, 1]; the latent, once prepared
    prompts one a picture, None where it was dropped: data/ does that, and nowhere else is a prompt dropped
    index   (B,) row in the source
    weight  (B, 1, h, w) weights of the error, or None
    """

    image: Tensor
    prompts: list[Prompt]
    index: Tensor
    weight: Tensor | None = None
    prepared: bool = False

    def to(self, device) -> Batch:
        weight = None if self.weight is None else self.weight.to(device)
        return Batch(self.image.to(device), self.prompts, self.index, weight, self.prepared)


class Loss(NamedTuple):
    """`total` is what is minimised (0-d); `parts` are detached numbers for the log."""

    total: Tensor
    parts: dict[str, Tensor] = {}


@dataclass(frozen=True)
class Preview:
    """One step of one stage. `picture()` gives (B, 3, H, W) in [-1, 1]; it decodes only when called.

    The last Preview of a run is the result.
    """

    stage: str
    index: int
    total: int
    picture: Callable[[], Tensor] = field(repr=False)


class System(nn.Module):
    """One paper: some parts put together, with a loss and, where it makes pictures, `generate`."""

    @property
    def turns(self) -> dict[str, list[nn.Parameter]]:
        """Who is trained, in which order within a step: {"model": parameters}. A GAN has two turns."""
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    def prepare(self, batch: Batch) -> Batch:
        """What trained weights do not change (latents, frozen encoders). No gradient; may be cached."""
        return batch

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The loss of a prepared batch for one turn."""
        raise NotImplementedError

    def forward(self, batch: Batch, turn: str = "model") -> Loss:
        """`loss`; parallel wrappers hook forward only."""
        return self.loss(batch, turn)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        **by_system,
    ) -> Iterator[Preview]:
        """Pictures for the prompts, one seed a picture; the caller's `for` loop shows, cancels and saves."""
        raise NotImplementedError

    place: torch.device | None = None  # where it calculates, if that is not where its parameters lie (offload)

    @property
    def device(self) -> torch.device:
        return self.place or next(self.parameters()).device


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode inside, and afterwards in the mode that it was in."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


def frozen(module: nn.Module) -> nn.Module:
    """No gradient and always in eval: outside turns, EMA and optimiser."""
    module.requires_grad_(False).eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]
    return module
