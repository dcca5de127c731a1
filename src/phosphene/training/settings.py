"""What a run is told: one frozen dataclass, checked when it is made, written to settings.json, compared on resume."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch

from phosphene.errors import Problem, unknown

EVERY = ("log_every", "checkpoint_every", "sample_every", "score_every")
PRECISIONS = ("auto", "bf16", "fp32")
FREE = {"workers", *EVERY, "keep", "tensorboard"}  # do not change the weights


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; all but the first have a default.

    steps            updates of the weights
    lr               highest learning rate; {turn: rate} where a system's turns want their own
    warmup           updates over which the rate rises from 0
    decay, floor     the last `decay` of the run goes down a cosine to `floor`·lr (0: the rate stays)
    betas, eps, weight_decay   AdamW's; only matrices and kernels are decayed, never gains and offsets
    clip             largest norm of a turn's gradient (0: not clipped)
    ema              reference decay of the averaged weights (0: none are kept), see `ema.Ema`
    seed             t, noise, dropout of a run are functions of (seed, step, slot, turn)
    precision        "bf16": autocast over float32 weights; "fp32"; "auto": bf16 where the device is good at it
    compile          torch.compile of the repeated blocks
    workers          processes that load pictures
    log_every, checkpoint_every, sample_every, score_every   in steps; 0: never
    keep             how many checkpoints stay on disk
    tensorboard      write TensorBoard's events where it is installed
    """

    steps: int
    lr: float | dict[str, float] = 3e-4
    warmup: int = 100
    decay: float = 0.5
    floor: float = 0.03
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    sample_every: int = 0
    score_every: int = 0
    keep: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        rates = self.lr.values() if isinstance(self.lr, dict) else (self.lr,)
        for name in ("steps", "warmup", "seed", "workers", *EVERY, "keep"):
            _want(isinstance(getattr(self, name), int), name, getattr(self, name), "a whole number")
        _want(self.steps >= 1, "steps", self.steps, "at least 1")
        _want(all(0 < r < math.inf for r in rates), "lr", self.lr, "above 0")
        _want(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _want(0 <= self.decay <= 1, "decay", self.decay, "between 0 and 1, the share of the run that decays")
        _want(0 <= self.floor <= 1, "floor", self.floor, "between 0 and 1, a share of lr")
        _want(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two, in [0, 1)")
        _want(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _want(self.clip >= 0, "clip", self.clip, "0 (off) or more")
        _want(0 <= self.ema < 1, "ema", self.ema, "in [0, 1), like 0.999; 0 is off")
        for name in ("workers", *EVERY):
            _want(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _want(self.keep >= 1, "keep", self.keep, "at least 1")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    @classmethod
    def of(cls, given: dict) -> Settings:
        """Settings from keyword arguments; Problem for a name there is not, or for no `steps`."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("training setting", name, known)
        if "steps" not in given:
            raise Problem("train() needs steps=, the number of updates")
        return cls(**given)

    def rate(self, step: int, turn: str = "model") -> float:
        """The learning rate of update number `step`, the first being 0.

        lr · min(1, (step+1)/warmup) · shape, where shape is 1 until (1−decay)·steps and then
        floor + (1−floor)·½(1 + cos πu), u going from 0 there to 1 at the last update.
        """
        if isinstance(self.lr, dict) and turn not in self.lr:
            raise Problem(f"lr has no rate for the turn {turn!r}; it has: {', '.join(self.lr)}")
        top = self.lr[turn] if isinstance(self.lr, dict) else self.lr
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        start = (1 - self.decay) * self.steps
        u = min(1.0, max(0.0, (step + 1 - start) / (self.steps - start))) if self.decay else 0.0
        return top * rise * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * u)) / 2)

    @property
    def every(self) -> dict[str, int]:
        return {name.removesuffix("_every"): getattr(self, name) for name in EVERY}

    def plain(self) -> dict:
        """As settings.json keeps them."""
        return asdict(self) | {"betas": list(self.betas)}


def resolve(precision: str, device: torch.device) -> str:
    """ "auto" made plain: "bf16" on CUDA from compute capability 8.0 and on CPUs with AVX-512 bf16 or AMX."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return "bf16" if any(getattr(torch.cpu, name, bool)() for name in tests) else "fp32"
    return "fp32"


def _want(right: bool, name: str, value: object, wanted: str) -> None:
    if not right:
        raise Problem(f"{name} is {value}; it has to be {wanted}")
