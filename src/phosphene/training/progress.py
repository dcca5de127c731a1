"""Numbers on their way from the device to the log, and to whoever drives the loop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from phosphene.training.band import Place
from phosphene.training.team import Team


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` of `steps` updates.

    lr          the rate of this update (of the first turn)
    images      pictures seen, and `seconds` trained, earlier sessions counted, samples and scores not; per_second is
                of the last line's window
    eta         seconds to go
    numbers     means since the log's line before: "loss/TURN", "grad_norm/TURN", "TURN/PART"; new where `logged`
    scores      "score/NAME", where the recipe's score was taken at this step
    places      where a new line lies in the recipe's band, by metric (band.Watch)
    checkpoint, sample   the files written at this step
    notes       lines that the user should see
    """

    step: int
    steps: int
    lr: float
    images: int
    seconds: float
    per_second: float
    eta: float
    numbers: dict[str, float]
    logged: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    checkpoint: Path | None = None
    sample: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        """The loss of the turn (the sum over them where there are several)."""
        return sum(v for k, v in self.numbers.items() if k.startswith("loss/")) if self.numbers else math.nan

    @property
    def grad_norm(self) -> float:
        """The norm of the gradient before clipping, over all turns."""
        return math.hypot(*(v for k, v in self.numbers.items() if k.startswith("grad_norm/")))

    def row(self) -> dict[str, float]:
        """A line of metrics.jsonl."""
        clock = {"images": self.images, "seconds": round(self.seconds, 3), "images/s": round(self.per_second, 3)}
        return {"step": self.step, "loss": self.loss, **self.numbers, **self.scores, "lr": self.lr, **clock}


class Log:
    """Numbers gathered step by step, on the device, and read only when a line is written."""

    def __init__(self, team: Team, images: int, seconds: float) -> None:
        self.team, self.images = team, images
        self.since = time.perf_counter()
        self.begun, self.before = self.since - seconds, seconds
        self.fresh = self.updates = 0
        self.gathered: dict[str, list[Tensor]] = defaultdict(list)
        self.numbers: dict[str, float] = {}
        self.per_second = math.nan

    def add(self, numbers: dict[str, Tensor]) -> None:
        for name, value in numbers.items():
            self.gathered[name].append(value.detach().float())

    def step(self, images: int) -> None:
        self.updates += 1
        self.images += images
        self.fresh += images

    def read(self) -> dict[str, float]:
        """The means since the last time, over all processes."""
        names = sorted(self.gathered)
        means = self.team.mean(torch.stack([torch.stack(self.gathered[n]).mean() for n in names])).tolist()
        self.numbers = dict(zip(names, means, strict=True))
        now = time.perf_counter()
        self.per_second = self.fresh / (now - self.since)
        self.since, self.fresh = now, 0
        self.gathered.clear()
        return self.numbers

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within it takes no time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            lost = time.perf_counter() - began
            self.since += lost
            self.begun += lost

    def eta(self, steps: int) -> float:
        return steps * (self.seconds - self.before) / self.updates if self.updates else math.nan
