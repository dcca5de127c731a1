"""A few steps of training on a copy of the system, as the run's own next ones would be: several checks look at them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..systems.base import Batch, Slots, System
from ..training.turn import Turn
from .patient import Patient, losses

STEPS, RAMP, SECONDS = 12, 4, 8.0  # at most so many steps, the first ones of a rising rate, and about so long


@dataclass
class Probe:
    """What a few steps did.

    before, after  the loss of the same batches at the same t and noise, (N,)
    norms          {parameter: the largest norm of its gradient}
    noise          the batch from which on a larger one would not help: the simple noise scale of McCandlish et al. 2018
    """

    before: Tensor
    after: Tensor
    steps: int
    norms: dict[str, float] = field(default_factory=dict)
    noise: float = float("nan")

    @property
    def rise(self) -> float:
        """The loss after, as a share of the loss before, less 1."""
        return float(self.after.mean() / self.before.mean()) - 1


def probe(patient: Patient, factor: float = 1.0) -> Probe:
    """Trains a copy for a few steps at `factor` times the highest rate, from the raw weights, with AdamW's own state.

    Done once for a patient and a factor.
    """
    if factor not in patient.tried:
        patient.tried[factor] = _probe(patient, factor)
    return patient.tried[factor]


def _probe(patient: Patient, factor: float) -> Probe:
    weights = patient.files.get("weights")
    system = patient.twin(weights)
    settings, named = patient.settings, {p: name for name, p in system.named_parameters()}
    turns = [Turn(turn, {named[p]: p for p in ps if p in named}, settings) for turn, ps in system.turns.items() if ps]
    for turn in turns:
        turn.restore(patient.files.get("optimizer", {}))
    held = patient.prepared
    start, done = time.monotonic(), 0
    found = Probe(losses(system, held), losses(system, held), 0)
    system.train()
    with torch.random.fork_rng(devices=[]):
        for batches in patient.steps(patient.step, STEPS):
            seed = 7919 + 64 * done
            ramp = 1.0 if weights else min(1.0, (done + 1) / RAMP)
            for turn in turns:
                top = settings.lr[turn.name] if isinstance(settings.lr, dict) else settings.lr
                _update(system, turns, turn, batches, factor * ramp * top, settings.clip, found, seed)
            done += 1
            if done >= RAMP and time.monotonic() - start > SECONDS:
                break
    system.eval()
    return Probe(found.before, losses(system, held), done, found.norms, found.noise)


def _update(
    system: System,
    turns: list[Turn],
    turn: Turn,
    batches: list[Batch],
    rate: float,
    clip: float,
    found: Probe,
    seed: int,
) -> None:
    for other in turns:
        for p in other.parameters.values():
            p.requires_grad_(other is turn)
    turn.optimizer.zero_grad(set_to_none=True)
    for k, batch in enumerate(_gathered(system, batches, turn.name, seed)):
        torch.manual_seed(seed + k)
        (system(batch, turn.name).total / len(batches)).backward()
    for name, p in turn.parameters.items():
        norm = 0.0 if p.grad is None else float(p.grad.norm())
        found.norms[name] = max(found.norms.get(name, 0.0), norm)
    turn.clip(clip)
    for group in turn.optimizer.param_groups:
        group["lr"] = rate
    turn.optimizer.step()


@torch.no_grad()
def _gathered(system: System, batches: list[Batch], turn: str, seed: int) -> list[Batch]:
    """The slots of a step, each with what its loss wants to know of the others, as the training has it."""
    if len(batches) == 1:
        return batches
    buffers, given = [(buffer, buffer.clone()) for buffer in system.buffers()], []
    for k, batch in enumerate(batches):
        torch.manual_seed(seed + k)
        given.append(system.gather(batch, turn))
    for buffer, before in buffers:  # what counts or averages does so in the loss
        buffer.copy_(before)
    return [replace(b, slots=Slots(given, k)) for k, b in enumerate(batches)] if any(given) else batches


def noise(patient: Patient, chunks: int = 8) -> float:
    """tr Σ / |G|², in pictures: from the gradients of a few small batches (McCandlish et al. 2018, appendix A.1).

    NaN for CLIP: a larger batch is another loss there, and not the same with less noise.
    """
    if patient.contrasts:
        return float("nan")
    system = patient.twin(patient.files.get("weights")).eval()
    turn = list(system.turns)[-1]
    grads = []
    with torch.random.fork_rng(devices=[]):
        for k, batch in enumerate(patient.prepared[:chunks]):
            torch.manual_seed(k)
            system.zero_grad(set_to_none=True)
            system(batch, turn).total.backward()
            grads.append(torch.cat([p.grad.flatten() for p in system.turns[turn] if p.grad is not None]))
    n, b = len(grads), len(patient.prepared[0].image)
    mean = torch.stack([g.square().sum() for g in grads]).mean()
    whole = (sum(grads) / n).square().sum()
    spread = (mean - whole) * n / (n - 1)  # tr Σ / b
    return float(spread * b / (whole - spread / n).clamp(min=1e-12 * mean))
