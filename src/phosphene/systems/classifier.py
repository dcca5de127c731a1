"""A classifier of noisy pictures, whose gradient guides (Dhariwal & Nichol 2021, §4; Sohl-Dickstein et al. 2015, §2.5).

Loss: −log p(y | x_t), x_t = α_t·x0 + σ_t·ε, over the times that the schedule draws. The denoiser is trained without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.guidance import LogProb
from ..diffusion.schedule import Schedule
from ..errors import Problem, unknown
from ..nets.autoencoder import Autoencoder
from ..nets.classifier import NoisyClassifier
from ..parts import part
from ..text.prompt import bare
from .base import Batch, Loss, Prompt, System, frozen
from .guides import Guide, looking, noised, seen


@part
class Classifier(System):
    """p(y | x_t): a net of noisy pictures, the schedule that noises them, and what the classes are called.

    names        one entry a class: the ways of saying it. A prompt is of the class of which one way has all its words
                 in the prompt: "a small red circle" is a "red circle". None: prompts are the classes' numbers
    autoencoder  for latents: pictures are encoded by it before they are noised
    """

    def __init__(
        self,
        net: NoisyClassifier,
        schedule: Schedule,
        names: Sequence[Sequence[str]] | None = None,
        autoencoder: Autoencoder | None = None,
    ):
        super().__init__()
        if names is not None and len(names) != net.classes:
            raise Problem(f"{len(names)} names for {net.classes} classes: one entry a class was expected")
        self.net, self.schedule, self.names = net, schedule, names
        self.autoencoder = None if autoencoder is None else frozen(autoencoder)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """Pictures → latents, where the classifier is one of latents."""
        if self.autoencoder is None:
            return batch
        return Batch(self.autoencoder.encode(batch.image), batch.prompts, batch.index, prepared=True)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The mean of −log p(y | x_t). Raises Problem for a prompt that names no class."""
        x, t = noised(self.schedule, batch.image)
        logits = seen(self.net, self.schedule, x, t)
        classes = torch.tensor(self.classes(batch.prompts), device=logits.device)
        total = F.cross_entropy(logits, classes)
        return Loss(total, {"loss": total.detach(), "right": (logits.argmax(1) == classes).float().mean()})

    def log_prob(self, prompts: Sequence[Prompt], schedule: Schedule) -> LogProb:
        """(x, t) → log p(y | x_t), (B,), of x on the sampler's schedule. Raises Problem: no class, another size."""
        rows = torch.tensor(self.classes(prompts))[:, None]
        judge = lambda logits: logits.log_softmax(1).gather(1, rows.to(logits.device))[:, 0]  # noqa: E731
        return looking(self.net, self.schedule, schedule, judge)

    @torch.no_grad()
    def scores(self, x: Tensor, t: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """log p(prompt | x_t) of each x (B, …) at time t, 0-d or (B,), of its own schedule: (B, prompts)."""
        return seen(self.net, self.schedule, x, t).log_softmax(1)[:, self.classes(prompts)]

    def classes(self, prompts: Sequence[Prompt]) -> list[int]:
        """The prompts' classes. Raises Problem for a prompt that names none, or several."""
        return [self._class(prompt) for prompt in prompts]

    def _class(self, prompt: Prompt) -> int:
        if isinstance(prompt, int) or str(prompt).strip().isdigit():
            number = int(prompt)  # type: ignore[arg-type]
            if not 0 <= number < self.net.classes:
                raise Problem(f"class {number} is not one of 0 … {self.net.classes - 1}")
            return number
        if not isinstance(prompt, str) or self.names is None:
            raise Problem(f"prompt {prompt!r}: a classifier guides towards a class, 0 … {self.net.classes - 1}")
        said = bare(prompt).lower()
        found = [k for k, ways in enumerate(self.names) if any(_says(said, way) for way in ways)]
        if not found:
            raise unknown("class in the prompt", prompt, [way for ways in self.names for way in ways])
        if len(found) > 1:
            several = ", ".join(self.names[k][0] for k in found)
            raise Problem(f"prompt {prompt!r} names several classes, {several}: a classifier guides towards one")
        return found[0]

    def generate(self, prompts, *, seeds, **options):
        """A classifier makes no pictures. Raises Problem."""
        raise Problem("a classifier makes no pictures; it guides a model that does: --guide FILE")


def _says(text: str, way: str) -> bool:
    """Whether a text has all words of a way of saying; Latin ones as whole words."""
    return all(
        re.search(rf"\b{word}\b" if word.isascii() else word, text) for word in map(re.escape, way.lower().split())
    )


def guide_of(part: nn.Module, schedule: Schedule, what: str) -> Guide:
    """A loaded part as a guide: what has log_prob over prompts, or a bare classifier of noisy pictures, such as ADM's.

    On which schedule that was trained its file does not say; it is taken to be the model's own, as with ADM's.
    Raises Problem, naming `what`, for another part.
    """
    if isinstance(part, NoisyClassifier):
        return Classifier(part, schedule).eval()
    if not hasattr(part, "log_prob"):
        kind = type(part).__name__
        raise Problem(f"{what} holds a {kind}, which does not guide; a classifier or a CLIP of noisy pictures would")
    return part  # type: ignore[return-value]  # a module has whatever it has
