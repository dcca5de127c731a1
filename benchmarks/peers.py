"""What the benchmarks share: the peers, where they import, and this machine in a line."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import torch
from torch import nn

TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.utils")


def diffusers() -> types.ModuleType:
    """diffusers without its warnings. Raises ImportError."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def lucidrains() -> types.ModuleType:
    """denoising_diffusion_pytorch without its progress bars. Raises ImportError.

    Where torchvision is not there, it gets an empty stand-in: what it wants of it, the Trainer's reader of a folder and
    writer of grids, is not used here.
    """
    stand_in = {} if importlib.util.find_spec("torchvision") else {name: types.ModuleType(name) for name in TORCHVISION}
    for name in TORCHVISION[1:] if stand_in else ():
        setattr(stand_in["torchvision"], name.split(".")[1], stand_in[name])
    sys.modules.update(stand_in)
    try:
        import denoising_diffusion_pytorch as module
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as inner
    finally:
        for name in stand_in:
            del sys.modules[name]
    inner.tqdm = lambda steps, **_: steps
    return module


def why_not(peer) -> str | None:
    """Why a peer (a function above) cannot be measured; None where it can."""
    try:
        peer()
    except ImportError as error:
        return f"{peer.__name__} is left out: {error}"
    return None


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def processor() -> str:
    """The processor, what it has for bf16, and its cores."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    name = names[0].split(":")[1].strip() if names else "a CPU"
    tests = {"AVX-512": "_is_avx512_supported", "bf16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    able = [what for what, test in tests.items() if getattr(torch.cpu, test, bool)()]
    return f"{name} ({', '.join(able) or 'no AVX-512'}), {os.cpu_count()} cores"


def machine(threads: int) -> str:
    """The processor, its load, torch and the threads used."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}{load}; torch {torch.__version__}, threads: {threads}"
