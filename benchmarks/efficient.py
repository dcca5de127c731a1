"""How much faster is the Efficient U-Net than the U-Net of as many parameters?

    python benchmarks/efficient.py                      # a quarter of Imagen's width, pictures of 64×64
    python benchmarks/efficient.py --width 128 --side 256 --batch 1

Both are told words and a small picture, as Imagen's 64 → 256 is (Saharia et al. 2022, appendix B). The U-Net has two
blocks a level, the same ratios of channels, and the width at which its parameters are nearest to as many. One forward,
as in sampling, and one forward with backward, as in training, in turns; medians over the rounds, of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from phosphene.diffusion.cond import Cond
from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.nets.joint import ImagenJointAttention2d
from phosphene.nets.layers import AddedTimeEmbedding, ScaleShiftResBlock
from phosphene.nets.unet import UNet
from phosphene.weights.tables import empty

MULTIPLES = (1, 2, 4, 8)
WORDS, EMB = 64, 128  # widths of what is told
TOLD = dict(head_dim=16, context_dim=WORDS, vector_dim=EMB, emb_dim=EMB)


def efficient(width: int) -> EfficientUNet:
    return EfficientUNet(6, 3, [width * m for m in MULTIPLES], (2, 4, 8, 8), **TOLD)


def plain(width: int) -> UNet:
    how = dict(block=ScaleShiftResBlock, attend=ImagenJointAttention2d, time=AddedTimeEmbedding)
    return UNet(6, 3, [width * m for m in MULTIPLES], 2, (0, 0, 0, 1), **TOLD, **how)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def equal(wanted: int, build: Callable[[int], nn.Module], step: int = 2) -> int:
    """The width, a multiple of `step`, at which a network has most nearly so many parameters."""
    widths = range(step, 256, step)
    return min(widths, key=lambda width: abs(parameters(empty(lambda: build(width))) - wanted))


def spent(net: nn.Module, x: Tensor, cond: Cond, learns: bool) -> float:
    """Seconds of the processor for a forward, or with `learns` also for its backward."""
    began = time.process_time()
    with torch.set_grad_enabled(learns):
        out = net(x, torch.full((len(x),), 500.0), cond)
        if learns:
            out.square().mean().backward()
    return time.process_time() - began


def main(width: int = 32, side: int = 64, batch: int = 2, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Prints a table; {network: {"parameters", "forward", "step"}}, seconds of one picture."""
    torch.manual_seed(0)
    ours = efficient(width)
    nets = {"Efficient U-Net": ours, "U-Net": plain(equal(parameters(ours), plain))}
    x, cond = torch.randn(batch, 3, side, side), Cond(torch.randn(batch, EMB), torch.randn(batch, 16, WORDS))
    cond = cond.merged(Cond(image=torch.randn_like(x)))
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds + 1):
        for name, net in nets.items():
            for learns in (False, True):
                times.setdefault((name, learns), []).append(spent(net, x, cond, learns) / batch)
    found = {}
    print("| network | parameters | forward, CPU s | forward and backward, CPU s |\n|---|---|---|---|")
    for name, net in nets.items():
        forward, step = (statistics.median(times[name, learns][1:]) for learns in (False, True))  # the first warms up
        found[name] = {"parameters": parameters(net), "forward": forward, "step": step}
        print(f"| {name} | {parameters(net) / 1e6:.1f} M | {forward:.3f} | {step:.3f} |")
    first, second = found.values()
    said = (f"{what} {second[what] / first[what]:.1f}×" for what in ("forward", "step"))
    print(f"\nTimes faster: {', '.join(said)}; {side}×{side} pixels, batch {batch}, {rounds} rounds")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 32), ("side", 64), ("batch", 2), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    main(**vars(parser.parse_args()))
