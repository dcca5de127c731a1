"""What test_processes runs in one process, and starts in two: `accelerate launch … two.py OUT`."""

import json
import os
import sys
from pathlib import Path

import torch
from killing import made
from safetensors.torch import save_file
from toys import Data, Gan, Toy, no_bundle, run

from phosphene.data.batches import Batches
from phosphene.data.scenes import Scenes
from phosphene.errors import Problem
from phosphene.systems.base import System
from phosphene.training import ema_weights, train


def scenes(batch: int, prompts: str = "caption") -> Batches:
    return Batches(Scenes(n=500), size=32, batch=batch, slots=4, prompts=prompts)


RUNS = {  # a buffer and a frozen part; several turns; both, with gradients that are balanced; words; whole batches
    "toy": (Toy, lambda: Data(slots=4)),
    "gan": (Gan, lambda: Data(slots=4)),
    "vae_gan": (lambda: made("vae_gan")[0], lambda: scenes(2, "none")),
    "latent": (lambda: made("latent")[0], lambda: scenes(1)),
    "clip": (lambda: made("clip")[0], lambda: scenes(16)),
}
STEPS = 6
# eps: of a gradient that is nothing but rounding (a bias of keys) Adam would make whole steps
OPTIONS = {"steps": STEPS, "precision": "fp32", "clip": 0, "eps": 1e-4, "log_every": 1}
OPTIONS |= {"checkpoint_every": 1, "keep": STEPS}


class Noted:
    """Data that writes down which rows each slot had."""

    def __init__(self, data) -> None:
        self.data, self.slots, self.batch, self.rows = data, data.slots, data.batch, {}

    def stream(self, start=0, workers=0, slots=None):
        for step, batches in self.data.stream(start, workers, slots):
            for slot, batch in zip(slots, batches, strict=True):
                self.rows[f"{step} {slot}"] = batch.index.tolist()
            yield step, batches


def all_runs(out: Path, rank: int) -> None:
    for name, (build, data) in RUNS.items():
        noted = Noted(data())
        run(moved(build(), rank), noted, out=out / name, **OPTIONS)
        (out / name / f"rows-{rank}.json").write_text(json.dumps(noted.rows))
    save_file(averaged(moved(Toy(), rank)), out / f"averaged-{rank}.safetensors")


def moved(system: System, rank: int) -> System:
    """Other first weights in the second process: the first one's are everybody's."""
    with torch.no_grad():
        for p in system.parameters():
            if p.requires_grad:
                p += rank
    return system


def averaged(system: System, steps: int = 91) -> dict[str, torch.Tensor]:
    """After every step but the last the weights and their average, each as one row; at the end the average alone."""
    weights, averages = [], []

    def row() -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in system.turns["model"]]).clone()

    for progress in train(system, Data(slots=4), steps=steps, lr=1e-2, ema=0.97, precision="fp32", save=no_bundle):
        if progress.step < steps:
            weights.append(row())
            with ema_weights(system):
                averages.append(row())
    return {"weights": torch.stack(weights), "averages": torch.stack(averages), "end": row()}


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    torch.set_num_threads(1)
    all_runs(Path(sys.argv[1]), int(os.environ["RANK"]))
    try:
        run(Toy(), Data(slots=3), steps=1)
    except Problem as problem:
        assert "3 slots cannot be shared by 2" in str(problem)
    else:
        raise AssertionError("three slots were shared by two")
