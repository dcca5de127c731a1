"""How good are the pictures after the same time of training, beside diffusers' and lucidrains' training scripts?

    python benchmarks/quality.py --data PATH/mnist.npz --out DIR
    python benchmarks/quality.py --data PATH/cifar10.parquet --seconds 600
    python benchmarks/quality.py                                    # scenes: nothing to download

From nothing, on the same pictures, unconditionally, with networks of about the same size, each side trains for
the same number of CPU seconds in a process of its own, and then makes n pictures in the same number of network calls:

phosphene   its own `train` with its default settings (bf16 where the CPU is good at it), flow matching, batch 16,
            lr 1e-3; DPM-Solver++(2M)
diffusers   what its train_unconditional.py does: DDPMScheduler with 1000 linear steps, ε, batch 16, AdamW 1e-4
            (0.95, 0.999), cosine with warm-up, EMA of power 3/4, fp32; DDIM and DDPM
lucidrains  what its Trainer does by default: sigmoid schedule, v, batch 16, Adam 1e-4 (0.9, 0.99), EMA 0.995, fp32;
            DDIM

Kinder to the others than their scripts: data waits in memory as on our side, warm-up takes no more than a tenth of the
run, and nothing is mirrored (digits). Steps are planned from the measured time of some, so that every rate ends its
way; the seconds that they took are printed.

The judge is the Fréchet distance between the features of the n pictures and those of held-out real ones. The features
are those of a small classifier that this benchmark trains on the labels, or, where the data has no labels, of the same
network as it was born. Real pictures, of those trained on, are judged beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peers import diffusers, lucidrains, machine, parameters, why_not
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.data.base import open_source
from phosphene.data.batches import Batches, cached
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Flow
from phosphene.metrics.frechet import Moments, frechet
from phosphene.nets.unet import UNet
from phosphene.systems.ddpm import Ddpm
from phosphene.training import train
from phosphene.training.folder import grid

AIM = 0.5


# The sides: built for a number of updates, they make steps of training, then pictures (n, C, H, W) in [−1, 1] ---------


class Phosphene:
    """Our own loop, with its defaults."""

    samplers = ("dpmpp_2m",)

    def __init__(self, data: Path, size: int, channels: int, width: int, updates: int):
        net = UNet(channels, channels, (width, 2 * width, 2 * width), 1, (0, 0, 1))
        self.system = Ddpm(Denoiser(net, Flow(), "flow"), None, size, channels)
        self.batch, self.net = 16, net
        batches = cached(Batches(f"{data}:pad={size}", size=size, batch=self.batch, prompts="none", channels=channels))
        self.run = train(self.system, batches, steps=updates, lr=1e-3)

    def step(self) -> None:
        next(self.run)

    def sample(self, n: int, calls: int, sampler: str, seed: int) -> Tensor:
        self.system.eval()  # after its last step it holds the averaged weights
        *_, last = self.system.generate([None] * n, seeds=range(seed, seed + n), steps=calls, sampler=sampler)
        return last.picture()[:, : self.system.channels]


class Diffusers:
    """What diffusers' script for unconditional pictures does."""

    samplers = ("DDIM", "DDPM")

    def __init__(self, data: Path, size: int, channels: int, width: int, updates: int):
        d = diffusers()
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.net = d.UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width), attention_head_dim=None,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=min(32, width // 2),
        )  # fmt: skip
        self.batch, self.table = 16, table(data)
        self.scheduler = d.DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
        self.rate = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=min(500, updates // 10), num_training_steps=updates
        )
        self.ema = EMAModel(self.net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def step(self) -> None:
        x0 = self.table[torch.randint(len(self.table), (self.batch,))] / 127.5 - 1
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (self.batch,))
        loss = F.mse_loss(self.net(self.scheduler.add_noise(x0, noise, t), t).sample, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.ema.step(self.net.parameters())
        self.optimizer.zero_grad()

    def sample(self, n: int, calls: int, sampler: str, seed: int) -> Tensor:
        d = diffusers()
        scheduler = getattr(d, f"{sampler}Scheduler").from_config(self.scheduler.config)
        pipe = getattr(d, f"{sampler}Pipeline")(unet=self.net.eval(), scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        self.ema.store(self.net.parameters())
        self.ema.copy_to(self.net.parameters())
        g = torch.Generator().manual_seed(seed)
        pictures = pipe(batch_size=n, generator=g, num_inference_steps=calls, output_type="np").images
        self.ema.restore(self.net.parameters())
        return torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1


class Lucidrains:
    """What the Trainer of denoising_diffusion_pytorch does."""

    samplers = ("DDIM",)

    def __init__(self, data: Path, size: int, channels: int, width: int, updates: int):
        d = lucidrains()
        from ema_pytorch import EMA

        self.net = d.Unet(dim=width * 7 // 8, dim_mults=(1, 2, 2), channels=channels)
        self.model = d.GaussianDiffusion(self.net, image_size=size)
        self.batch, self.table = 16, table(data)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.ema = EMA(self.model, beta=0.995, update_every=10)

    def step(self) -> None:
        self.model(self.table[torch.randint(len(self.table), (self.batch,))] / 255).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def sample(self, n: int, calls: int, sampler: str, seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = self.ema.ema_model.eval()
        model.sampling_timesteps, model.is_ddim_sampling = calls, calls < model.num_timesteps
        with torch.no_grad():
            return model.sample(batch_size=n).clone() * 2 - 1


SIDES: dict[str, tuple[type, Callable | None]] = {
    "phosphene": (Phosphene, None),
    "diffusers": (Diffusers, diffusers),
    "lucidrains": (Lucidrains, lucidrains),
}


class Budget(NamedTuple):
    """CPU seconds of training a side, or, for tests, a number of updates; what is made then, in how many calls."""

    seconds: float = 240.0
    updates: int = 0
    n: int = 1024
    calls: int = 50

    def planned(self, step: Callable[[], Any], tries: int = 12) -> int:
        """How many steps fit."""
        if self.updates:
            return self.updates
        for _ in range(3):
            step()
        begun = time.process_time()
        for _ in range(tries):
            step()
        return max(1, int(0.98 * self.seconds * tries / (time.process_time() - begun)))


def run_side(name: str, folder: Path, width: int, budget: Budget) -> dict[str, Any]:
    """Trains a side on folder/data.npz; its pictures go to folder/NAME.npz. Returns what is said of it."""
    kind, data = SIDES[name][0], folder / "data.npz"
    channels, size = table(data).shape[1:3]
    updates = budget.planned(kind(data, size, channels, width, 10**6).step)  # with weights that are thrown away
    torch.manual_seed(0)
    side = kind(data, size, channels, width, updates)
    begun = time.process_time()
    for _ in range(updates):
        side.step()
    seconds = time.process_time() - begun
    made = {
        sampler: torch.cat(
            [side.sample(min(128, budget.n - i), budget.calls, sampler, 1 + i) for i in range(0, budget.n, 128)]
        )
        for sampler in side.samplers
    }
    np.savez(folder / f"{name}.npz", **{k: v.clamp(-1, 1).numpy() for k, v in made.items()})
    said = dict(parameters=parameters(side.net), updates=updates, pictures=updates * side.batch, seconds=seconds)
    (folder / f"{name}.json").write_text(json.dumps(said))
    return said


# The data and the judge -----------------------------------------------------------------------------------------------


def share(spec: str, folder: Path, size: int, most: int) -> None:
    """Writes folder/data.npz: x_train, x_test uint8 (N, size, size) or (N, size, size, 3), and y_… of labels."""
    source = open_source(spec)
    rows = np.random.default_rng(0).permutation(len(source))[:most].tolist()
    examples = [source[row] for row in rows]
    batches = Batches(source, size=size, batch=1, prompts="none")
    x = np.stack([batches.picture(example, (size, size)).numpy() for example in examples]).transpose(0, 2, 3, 1)
    x = x[..., 0] if (x == x[..., :1]).all() else x  # grey pictures have one channel
    held = max(1, min(2000, len(x) // 5))
    arrays = {"x_test": x[:held], "x_train": x[held:]}
    if all(example.label is not None for example in examples):
        y = np.array([example.label for example in examples])
        arrays |= {"y_test": y[:held], "y_train": y[held:]}
    np.savez(folder / "data.npz", **arrays)


def table(data: Path, split: str = "train") -> Tensor:
    """uint8 (N, C, H, W)."""
    with np.load(data) as arrays:
        x = torch.from_numpy(arrays[f"x_{split}"])
    return (x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2).contiguous()


class Judge(nn.Module):
    """A small classifier; its features are the 64 numbers before the classes."""

    def __init__(self, size: int, channels: int, classes: int):
        super().__init__()
        widths = (channels, 32, 64, 64)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in pairwise(widths)
            ),
            nn.Flatten(), nn.Linear(64 * (size // 8) ** 2, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(chunk) for chunk in x.split(256)]).double()


def judge(data: Path, updates: int) -> tuple[Judge, str]:
    """The judge, trained on the labels where there are some, and what is said of it."""
    torch.manual_seed(0)
    x = table(data)
    with np.load(data) as arrays:
        y = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("y_")}
    net = Judge(x.shape[2], x.shape[1], 1 + int(max(v.max() for v in y.values())) if y else 1)
    if not y:
        return net.eval(), "a random network (the data has no labels)"
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(updates):
        rows = torch.randint(len(x), (128,))
        F.cross_entropy(net(x[rows] / 127.5 - 1), y["y_train"][rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        right = (net(table(data, "test") / 127.5 - 1).argmax(1) == y["y_test"]).float().mean()
    return net.eval(), f"a classifier trained on the labels, right on {right:.1%} of the held-out pictures"


def distance(a: Tensor, b: Tensor) -> float:
    """Fréchet's, of two sets of features (N, D)."""
    return frechet(Moments.of(a), Moments.of(b))


# The run --------------------------------------------------------------------------------------------------------------


def compare(folder: Path, names: list[str], budget: Budget, judged: int = 600) -> dict[str, float]:
    """Prints the table; returns {side: its distance with the better of its samplers}."""
    net, what = judge(folder / "data.npz", judged)
    held = net.features(table(folder / "data.npz", "test") / 127.5 - 1)
    real = table(folder / "data.npz")[: budget.n] / 127.5 - 1
    print(f"features of {what}; {budget.n} pictures against {len(held)}, {budget.calls} network calls a picture")
    print(f"\n{'':24s} {'parameters':>10s} {'CPU s':>7s} {'updates':>8s} {'pictures':>9s} {'distance':>9s}")
    print(f"{'real, trained on':24s} {'':>10s} {'':>7s} {'':>8s} {'':>9s} {distance(net.features(real), held):9.3f}")
    grid(real[:64].expand(-1, 3, -1, -1)).save(folder / "real.png")
    best: dict[str, float] = {}
    for name in names:
        said = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz") as made:
            for sampler in made.files:
                pictures = torch.from_numpy(made[sampler])
                grid(pictures[:64].expand(-1, 3, -1, -1)).save(folder / f"{name}-{sampler}.png")
                far = distance(net.features(pictures), held)
                best[name] = min(far, best.get(name, far))
                print(
                    f"{name + ', ' + sampler:24s} {said['parameters'] / 1e6:8.2f} M {said['seconds']:7.1f}"
                    f" {said['updates']:8d} {said['pictures']:9d} {far:9.3f}"
                )
    for other in best.keys() - {"phosphene"}:
        ratio = best["phosphene"] / best[other]
        verdict = "reached" if ratio <= AIM else "MISSED"
        print(f"ours is {ratio:.2f} of {other}'s better one; the aim is ≤ {AIM}: {verdict}")
    return best


def main(args: argparse.Namespace) -> dict[str, float]:
    """All sides one after the other, each in a process of its own, then the judge."""
    names = ["phosphene"]
    for name in args.sides:
        why = why_not(SIDES[name][1]) if SIDES[name][1] else None
        names += [name] if not why and name not in names else []
        print(*([why] if why else []), end="\n" if why else "")
    budget = Budget(args.seconds, args.updates, args.n, args.calls)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        share(args.data, folder, args.size, args.pictures)
        print(f"{machine(args.threads)}; {args.seconds:g} CPU seconds of training a side", flush=True)
        for name in names:
            if args.here:
                run_side(name, folder, args.width, budget)
            else:
                words = [
                    "--side",
                    name,
                    "--out",
                    str(folder),
                    "--width",
                    str(args.width),
                    "--threads",
                    str(args.threads),
                ]
                given = [f"--{key}={value}" for key, value in budget._asdict().items()]
                threads = {"OMP_NUM_THREADS": str(args.threads)}
                subprocess.run([sys.executable, __file__, *words, *given], check=True, env={**os.environ, **threads})
        return compare(folder, names, budget, args.judged)


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scenes:n=12000", help="what phosphene train --data takes")
    parser.add_argument("--pictures", type=int, default=22_000, help="how many of them at most, held-out ones counted")
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of training a side")
    parser.add_argument("--updates", type=int, default=0, help="this many updates instead")
    parser.add_argument("--n", type=int, default=1024, help="pictures made by each side")
    parser.add_argument("--calls", type=int, default=50, help="network calls a picture")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures in pixels; divides by 8")
    parser.add_argument("--width", type=int, default=32, help="channels at the full size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judged", type=int, default=600, help="updates of the judge")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--out", help="a folder for the pictures and a grid of each side's")
    parser.add_argument("--here", action="store_true", help="all in this process")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    given = options()
    torch.set_num_threads(given.threads)
    if given.side:
        run_side(given.side, Path(given.out), given.width, Budget(given.seconds, given.updates, given.n, given.calls))
    else:
        main(given)
