"""How fast is a training step, beside diffusers' and lucidrains'?

    python benchmarks/train.py              # everything, batch 16
    python benchmarks/train.py --batch 64 --only cifar
    python benchmarks/train.py --quick      # three rounds, only what the aims compare

A step is forward, backward, clipping to norm 1, AdamW (lucidrains: Adam) and the averaged weights: on our side one turn
of `train`'s own loop, on the others' what their training scripts do. All sides of a table are built in one process and
take turns, a step each a round, so that whatever slows the machine slows all of them; medians over the rounds.

cifar        DDPM's CIFAR-10 U-Net, 35.7 M parameters, dropout 0.1: the same network here and in diffusers
unet, dit    small latent networks, 8×8×4 latents, 16 tokens of text, batch 64: our attention by matrix products
             beside the same network with F.scaled_dot_product_attention, both in bf16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from typing import NamedTuple
from unittest import mock

import torch
from peers import diffusers, lucidrains, machine, parameters, why_not
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Flow, Linear
from phosphene.nets.dit import DiT
from phosphene.nets.layers import ScaleShiftResBlock, SpatialTransformer
from phosphene.nets.unet import UNet
from phosphene.parts import part
from phosphene.systems.base import Batch
from phosphene.systems.ddpm import Ddpm
from phosphene.training import train

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Side(NamedTuple):
    """One row of a table. `step` makes one training step; `best` marks what the aim compares us with."""

    name: str
    parameters: int
    step: Callable[[], object]
    best: bool = False


# Our side -----------------------------------------------------------------------------------------------------------


class OneBatch:
    """Data that is the same batch for ever: what is timed is the step."""

    slots = 1

    def __init__(self, batch: Batch):
        self.batch = batch

    def stream(self, start: int, workers: int, slots: list[int]) -> Iterator[tuple[int, list[Batch]]]:
        return ((step, [self.batch]) for step in count(start))


@part
class Told(nn.Module):
    """A condition that stands still: `length` tokens and a vector, of `width`. It needs no training."""

    def __init__(self, width: int, length: int = 16):
        super().__init__()
        self.width, self.length = width, length

    def forward(self, prompts: list) -> Cond:
        g = torch.Generator().manual_seed(0)
        tokens = torch.randn(len(prompts), self.length, self.width, generator=g)
        mask = torch.arange(self.length)[None] < torch.randint(2, self.length + 1, (len(prompts), 1), generator=g)
        return Cond(vector=tokens.mean(1), tokens=tokens, mask=mask)


def our_side(name: str, system: Ddpm, batch: int, precision: str = "auto", attention=None) -> Side:
    """A step of `train` with its default settings; `attention` takes the place of the library's one call site."""
    image = torch.rand(batch, system.channels, system.size, system.size) * 2 - 1
    data = OneBatch(Batch(image, [None] * batch, torch.arange(batch)))
    run = train(system, data, steps=10**9, decay=0.0, precision=precision)

    def step() -> None:
        with mock.patch("phosphene.nets.attention.attention", attention) if attention else nullcontext():
            next(run)

    return Side(name, parameters(system), step)


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, told: int = 0) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))


def cifar(width: int) -> Ddpm:
    """The network of the recipe cifar10.ddpm."""
    net = UNet(3, 3, (width, 2 * width, 2 * width, 2 * width), 2, (0, 1, 0, 0), dropout=0.1)
    return Ddpm(Denoiser(net, Linear()), size=32)


def small(kind: str, width: int) -> Ddpm:
    """A latent network of the kind and size that emoji.latent trains on a CPU."""
    told = Told(2 * width)
    context = dict(context_dim=told.width, vector_dim=told.width)
    if kind == "unet":
        more = dict(head_dim=width // 4, emb_dim=2 * width, block=ScaleShiftResBlock, attend=SpatialTransformer)
        net = UNet(4, 4, (width, width + width // 4), 1, (1, 1), **context, **more)
    else:
        net = DiT(4, 4, 1, 2 * width, 6, 8, **context)
    return Ddpm(Denoiser(net, Flow(), "flow"), told, size=8, channels=4)


# Their sides --------------------------------------------------------------------------------------------------------


def diffusers_side(name: str, width: int, batch: int, bf16=False, channels_last=False, fused=False, best=False) -> Side:
    """The step of diffusers' unconditional training script with the network of google/ddpm-cifar10-32."""
    d = diffusers()
    from diffusers.training_utils import EMAModel

    net = d.UNet2DModel(
        sample_size=32, block_out_channels=(width, 2 * width, 2 * width, 2 * width), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None,
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, dropout=0.1,
    )  # fmt: skip
    net = net.to(memory_format=torch.channels_last) if channels_last else net
    scheduler, optimizer = d.DDPMScheduler(1000), torch.optim.AdamW(net.parameters(), lr=1e-4, fused=fused)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75, foreach=True)
    x0 = pictures(batch, channels_last) * 2 - 1

    def step() -> None:
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (batch,))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.mse_loss(net(scheduler.add_noise(x0, noise, t), t).sample.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())

    return Side(name, parameters(net), step, best)


def lucidrains_side(name: str, width: int, batch: int, bf16=False, channels_last=False, fused=False) -> Side:
    """The step of lucidrains' Trainer with the Unet of its README."""
    d = lucidrains()
    from ema_pytorch import EMA

    net = d.Unet(dim=width // 2, dim_mults=(1, 2, 4, 8), flash_attn=False)
    model = d.GaussianDiffusion(net, image_size=32)
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=fused)
    ema = EMA(model, beta=0.995, update_every=10)
    image = pictures(batch, channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(image)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return Side(name, parameters(net), step)


def pictures(batch: int, channels_last: bool) -> Tensor:
    x = torch.rand(batch, 3, 32, 32)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


# The tables ---------------------------------------------------------------------------------------------------------


def cifar_sides(width: int, batch: int, quick: bool) -> list[Side]:
    sides = [our_side("phosphene (default)", cifar(width), batch)]
    best = dict(bf16=True, channels_last=True, fused=True)
    if not quick:
        sides += [our_side("phosphene fp32", cifar(width), batch, "fp32")]
    if why := why_not(diffusers):
        print(why)
    else:
        if not quick:
            sides += [diffusers_side("diffusers fp32", width, batch)]
        sides += [diffusers_side("diffusers bf16", width, batch, bf16=True, best=True)]
        sides += [diffusers_side("diffusers bf16 channels-last fused", width, batch, **best, best=True)]
    if why := why_not(lucidrains):
        print(why)
    elif not quick:
        sides += [lucidrains_side("lucidrains fp32", width, batch)]
        sides += [lucidrains_side("lucidrains bf16 channels-last fused", width, batch, **best)]
    return sides


def small_sides(kind: str, width: int, batch: int, quick: bool) -> list[Side]:
    sides = [our_side("phosphene bf16, matmul attention", small(kind, width), batch, "bf16")]
    sides += [our_side("the same with SDPA", small(kind, width), batch, "bf16", sdpa)._replace(best=True)]
    return sides if quick else [*sides, our_side("phosphene fp32", small(kind, width), batch, "fp32")]


def interleaved(sides: list[Side], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of a step, one a side; in every round each side makes a step, in turns from either end."""
    took: list[list[float]] = [[] for _ in sides]
    warmup = min(2, rounds)
    for r in range(warmup + rounds):
        for i in range(len(sides)) if r % 2 else reversed(range(len(sides))):
            begun = clock()
            sides[i].step()
            if r >= warmup:
                took[i].append(clock() - begun)
    return [statistics.median(t) for t in took]


def table(title: str, sides: list[Side], seconds: list[float], batch: int, aim: float) -> float | None:
    """Prints it; returns how many times faster the first side is than the best that the aim names."""
    print(f"\n{title}, batch {batch}")
    print(f"{'':38s} {'parameters':>10s} {'s a step':>9s} {'img/s':>8s} {'ours is':>8s}")
    for side, s in zip(sides, seconds):
        ours = f"{s / seconds[0]:.2f}×"
        print(f"{side.name:38s} {side.parameters / 1e6:8.2f} M {s:9.3f} {batch / s:8.1f} {ours:>8s}")
    named = [s for side, s in zip(sides, seconds) if side.best]
    if not named:
        return None
    reached = min(named) / seconds[0]
    verdict = "reached" if reached >= aim else "MISSED"
    print(f"against the best of those marked by the aim: {reached:.2f}×; the aim is ≥ {aim}×: {verdict}", flush=True)
    return reached


def main(
    only: list[str] | None = None, rounds: int = 10, batch: int = 16, threads: int = 0, quick: bool = False,
    clock: str = "wall", width: int = 128,
) -> dict[str, float | None]:  # fmt: skip
    """Prints the tables; returns {table: times faster}."""
    if threads:
        torch.set_num_threads(threads)
    rounds = min(rounds, 3) if quick else rounds
    print(f"{machine(torch.get_num_threads())}; {clock} clock, medians of {rounds} interleaved rounds")
    made = {
        "cifar": ("DDPM's CIFAR-10 U-Net", lambda: cifar_sides(width, batch, quick), batch, 1.3),
        "unet": ("latent U-Net, 8×8×4", lambda: small_sides("unet", width, 4 * batch, quick), 4 * batch, 1.6),
        "dit": ("latent transformer, 64 tokens", lambda: small_sides("dit", width, 4 * batch, quick), 4 * batch, 1.6),
    }
    reached = {}
    for name in only or list(made):
        title, build, size, aim = made[name]
        torch.manual_seed(0)
        sides = build()
        reached[name] = table(title, sides, interleaved(sides, rounds, CLOCKS[clock]), size, aim)
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["cifar", "unet", "dit"], help="which tables")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16, help="of cifar; unet and dit have four times as much")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="three rounds, only what the aims compare")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: of this process; take 1 thread then"
    )
    parser.add_argument("--width", type=int, default=128, help="channels of the networks; 128 is what the aims mean")
    main(**vars(parser.parse_args()))
