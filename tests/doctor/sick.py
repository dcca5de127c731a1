"""A run to examine, and ways to make it ill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from phosphene.data.base import Example
from phosphene.data.batches import Batches
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine
from phosphene.doctor.patient import Patient
from phosphene.nets.transformer import TextTransformer
from phosphene.nets.unet import UNet
from phosphene.systems.ddpm import Ddpm
from phosphene.text.encoders import TextEncoder
from phosphene.text.tokenizer import Tokenizer
from phosphene.training import Settings, checkpoint, train

COLOURS = {
    "red": (220, 40, 30), "green": (30, 190, 60), "blue": (30, 60, 220), "white": (250, 250, 250), "black": (5, 5, 5),
}  # fmt: skip
SIDE = 8
FOUND: dict[str, list] = {}  # what the tests found, by the fault's module: page.py makes docs/doctor.md of it


class Squares:
    """Rows of one noisy colour each, and what it is; `plant` changes an Example."""

    name = "squares"

    def __init__(self, n: int = 160, plant=None, seed: int = 0):
        self.n, self.plant, self.seed = n, plant or (lambda i, example: example), seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Example:
        rng = np.random.default_rng([self.seed, i])
        name = list(COLOURS)[i % len(COLOURS)]
        pixels = np.array(COLOURS[name]) + rng.normal(0, 20, (SIDE, SIDE, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        captions = (f"a {name} square", f"{name} all over, number {i}")
        return self.plant(i, Example(image, captions))


def batches(source=None, **options) -> Batches:
    return Batches(source or Squares(), **({"size": SIDE, "batch": 16, "drop": 0.1} | options))


def system(schedule=None, predicts: str = "v", **options) -> Ddpm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = Tokenizer.train((c for i in range(40) for c in Squares()[i].captions), 300, length=16)
        text = TextEncoder(tokenizer, TextTransformer(len(tokenizer), 32, 1, 2, 16))
        net = UNet(3, 3, (32,), 1, (0,), vector_dim=32)
        return Ddpm(
            Denoiser(net, schedule or Cosine(zero_snr=True), predicts), text, SIDE, sampler="ddim",
            **({"steps": 10, "guidance": 2.0} | options),
        )  # fmt: skip


SETTINGS = dict(
    steps=120, lr=2e-3, warmup=10, ema=0.99, checkpoint_every=100, log_every=5, precision="fp32", tensorboard=False
)


def folder_of(source, out: Path) -> Path:
    """The rows of a source as a folder of pictures with their captions."""
    out.mkdir(parents=True)
    for i in range(len(source)):
        example = source[i]
        example.image.save(out / f"{i:04d}.png")
        (out / f"{i:04d}.txt").write_text("\n".join(example.captions))
    return out


def trained(data: Path, out: Path, **settings) -> Path:
    """A run on a folder of pictures."""
    torch.manual_seed(0)
    for _ in train(system(), batches(str(data)), out=out, **(SETTINGS | settings)):
        pass
    return out


def ill(run: Path, out: Path, change, which: str = "weights", steps=(100, 120)) -> Path:
    """A copy of the run, with `change(step, tensors)` applied to a file of its checkpoints."""
    shutil.copytree(run, out)
    for step in steps:
        files, position = checkpoint.load(run / "checkpoints" / f"step-{step}")
        files[which] = change(step, dict(files[which]))
        position.pop("files"), position.pop("step")
        checkpoint.save(out / "checkpoints", step, files, position)
    return out


def first(run: Path, which: str, step: int = 100) -> dict:
    return load_file(run / "checkpoints" / f"step-{step}" / f"{which}.safetensors")


def told(run: Path, group: str, **values) -> None:
    """Other values in settings.json."""
    file = run / "settings.json"
    record = json.loads(file.read_text())
    record[group] |= values
    file.write_text(json.dumps(record))


def patient(model=None, data=None, kind: str = "recipe", **more) -> Patient:
    """Something to examine that was never written."""
    data = batches() if data is None else data
    settings = Settings.of(SETTINGS | more.pop("settings", {}))
    return Patient(kind, "it", data.source, None, data, model, settings, **more)
