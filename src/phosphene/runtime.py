"""Where and in which precision a network runs: networks are plain, single-device code, and speed is put on here."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from phosphene.diffusion.denoiser import Denoiser
from phosphene.errors import Problem, unknown

Net = TypeVar("Net", bound=nn.Module)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_for_sampling(system: Net, device: str = "auto", precision: str = "auto") -> Net:
    """The system, in eval mode and without gradients, on its device and in its precision.

    device     "auto" is the first of cuda, mps and cpu that is there; or a name such as "cuda:1"
    precision  "fp32", "bf16", "fp16"; "auto" is bf16 on GPUs that calculate in it, and fp32 elsewhere. What runs at
               every step, the denoisers' networks, takes it; what runs once a picture, encoder and decoder, and the
               sampler's x stay in float32
    Raises Problem for a device that is not there and for an unknown precision.
    """
    place = choose_device(device)
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    if precision == "auto":
        precision = "bf16" if place.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
    system.to(place).eval().requires_grad_(False)
    for module in system.modules():
        if isinstance(module, Denoiser):
            module.net.to(PRECISIONS[precision])
    return system


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name. Raises Problem where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = ["auto", "cpu", "cuda", "mps"]
        if name.split(":")[0] not in known:
            raise unknown("device", name, known) from None
        raise Problem(f"device {name!r} is not there; 'auto' takes the best that is") from None
    if place.type == "meta":
        raise unknown("device", name, ["auto", "cpu", "cuda", "mps"])
    return place
