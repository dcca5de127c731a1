"""Systems of a few hundred weights, data for them, and a run."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn

from phosphene.systems.base import Batch, Loss, System, frozen
from phosphene.training import train


class Toy(System):
    """Denoises: noise and dropout come from torch's generators; a buffer counts, a part is frozen."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1))
            self.encoder = frozen(nn.Conv2d(3, 3, 1))
            self.null = nn.Parameter(torch.zeros(3))
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def prepare(self, batch: Batch) -> Batch:
        image = self.encoder(batch.image) + 0.1 * torch.randn_like(batch.image)
        return Batch(image.float(), batch.prompts, batch.index, prepared=True)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        if self.training:
            self.seen += len(batch.image)
        dropped = [i for i, prompt in enumerate(batch.prompts) if prompt is None]
        x = batch.image + torch.randn_like(batch.image)
        out = self.net(x).float()
        if dropped:
            out = out + self.null.view(3, 1, 1)
        error = (out - batch.image).square().mean()
        return Loss(error, {"mse": error.detach()})


class Gan(System):
    """Two turns; the loss of either runs through both parts."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.generator = nn.Conv2d(3, 3, 3, padding=1)
            self.discriminator = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Conv2d(8, 1, 3))

    @property
    def turns(self):
        return {"discriminator": list(self.discriminator.parameters()), "generator": list(self.generator.parameters())}

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        made = self.generator(batch.image + torch.randn_like(batch.image))
        fake = self.discriminator(made).float()
        if turn == "generator":
            return Loss((1 - fake).square().mean() + (made - batch.image).square().mean())
        return Loss(self.discriminator(batch.image).float().square().mean() + (1 + fake).square().mean())


class Data:
    """Stands in for Batches: slot s of step k holds pictures of its own."""

    def __init__(self, slots: int = 2, batch: int = 4) -> None:
        self.slots, self.batch = slots, batch

    def at(self, step: int, slot: int) -> Batch:
        rng = torch.Generator().manual_seed(1000 * step + slot)
        image = torch.rand(self.batch, 3, 8, 8, generator=rng) * 2 - 1
        prompts = [None if u < 0.1 else "x" for u in torch.rand(self.batch, generator=rng).tolist()]
        return Batch(image, prompts, torch.arange(self.batch))

    def stream(self, start: int = 0, workers: int = 0, slots=None):
        for step in itertools.count(start):
            yield step, [self.at(step, slot) for slot in (range(self.slots) if slots is None else slots)]


OPTIONS = {"lr": 3e-3, "warmup": 5, "log_every": 5, "tensorboard": False}


def no_bundle(system: System, path: Path, card: str | None) -> None:
    """In the place of weights.bundle.save, which knows no toys."""
    path.write_bytes(weights(system))


def weights(system: System) -> bytes:
    return b"".join(v.detach().numpy().tobytes() for v in system.state_dict().values())


def run(system: System, data: Data | None = None, **options) -> list:
    """Trains to the end; every Progress."""
    return list(train(system, data or Data(), **(OPTIONS | {"save": no_bundle} | options)))
