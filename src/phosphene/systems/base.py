"""The contract: all that the trainer, the evaluator, the command line and a server ever know of a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..text.layout import Layout
    from ..text.maps import LabelMap

Prompt: TypeAlias = "str | int | Layout | LabelMap | None"  # words, a class, boxes, a map; None is the null prompt


@dataclass
class Batch:
    """Pictures and what is said of them.

    image   (B, 3, H, W) in [-1, 1]; the latent, once prepared
    prompts one a picture, None where it was dropped: data/ does that, and nowhere else is a prompt dropped
    index   (B,) row in the source
    weight  (B, 1, h, w) weights of the error, or None
    slots   what is known of the step's other slots, where there are any and the system gathers (see System.gather)
    """

    image: Tensor
    prompts: list[Prompt]
    index: Tensor
    weight: Tensor | None = None
    prepared: bool = False
    slots: Slots | None = None

    def to(self, device) -> Batch:
        weight = None if self.weight is None else self.weight.to(device)
        return replace(self, image=self.image.to(device), weight=weight)


@dataclass(frozen=True)
class Slots:
    """All slots of a step, as one of them sees them: what a loss wants that is not a mean over pictures.

    given   what `System.gather` made of every slot, of all processes, in their order
    index   which of them this batch is
    """

    given: list[tuple[Tensor, ...]]
    index: int

    def joined(self, *own: Tensor) -> tuple[Tensor, ...]:
        """The rows of all slots, (slots·B, …) for each (B, …) of `own`, which stand in their place with a gradient.

        A step's gradient is the mean over its slots. Each slot sees the same loss, but pulls its own rows alone: they
        are pulled `slots` times as hard, so that the mean is the gradient of that one loss, through the rows as
        through what all slots share, such as CLIP's temperature.
        """
        n = len(self.given)
        live = tuple(x.detach() + n * (x - x.detach()) for x in own)
        slots = [*self.given[: self.index], live, *self.given[self.index + 1 :]]
        return tuple(torch.cat(rows) for rows in zip(*slots, strict=True))

    def mean(self) -> tuple[Tensor, ...]:
        """The mean over slots of each thing that was gathered."""
        return tuple(torch.stack(things).mean(0) for things in zip(*self.given, strict=True))


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

    indivisible = ""  # why a step cannot be cut into slots, where its loss cannot: more than one is then refused

    def gather(self, batch: Batch, turn: str = "model") -> tuple[Tensor, ...]:
        """What the turn's loss wants to know of every slot of its step; nothing where it is a mean over pictures.

        Called for each slot, with the weights and the random numbers that `loss` then meets, and without a gradient;
        `loss` finds what all gave in batch.slots. Where a step is one slot it is not called, and batch.slots is None.
        """
        return ()

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The loss of a prepared batch for one turn: a mean over its pictures, unless `gather` says what more it takes.

        So the mean over a step's slots is the loss of all its pictures, and its gradient theirs.
        """
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
