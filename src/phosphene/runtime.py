"""Where and in which precision a network runs: networks are plain, single-device code, and speed is put on here."""

from __future__ import annotations

import contextlib
import functools
import platform
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from phosphene.diffusion.denoiser import Denoiser
from phosphene.errors import Problem, unknown
from phosphene.memory import give_back, keep_freed, let_go
from phosphene.packed import pack, unpack
from phosphene.tiles import make_seamless, make_tiled

Net = TypeVar("Net", bound=nn.Module)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGE = 20_000_000  # parameters: what is smaller takes little time in any precision, and stays exact


def prepare_for_sampling(
    system: Net,
    device: str = "auto",
    precision: str = "auto",
    *,
    offload: bool = False,
    tile: int | None = None,
    seamless: bool = False,
) -> Net:
    """The system, in eval mode and without gradients, on its device, in its precision, and as fast as it can be there.

    device     "auto" is the first of cuda, mps and cpu that is there; or a name such as "cuda:1"
    precision  "fp32", "bf16", "fp16"; "auto" is bf16 on GPUs that calculate in it, and for large denoisers on CPUs that
               do; fp32 elsewhere. The denoisers' networks take it, and large autoencoders where it is bf16; encoders of
               prompts and the sampler's x stay in float32
    offload    weights are on the device only while their part of the system is at work, and in memory otherwise
    tile       autoencoders work on squares of so many pixels a side (tiles.py); None is the whole picture at once
    seamless   what leaves a picture on one side comes in on the other, so that it tiles a plane

    On the CPU the weights of convolutions and linear layers are packed (packed.py), and channels come last. A system
    may be prepared again, for something else. Raises Problem for a device that is not there, for an unknown precision
    and for a tile that is too small.
    """
    place = choose_device(device)
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    system.eval().requires_grad_(False)
    nets = [m.net for m in system.modules() if isinstance(m, Denoiser)]
    autoencoders = [m for m in system.modules() if _is_autoencoder(m)]
    _undo(system)
    if precision == "auto":
        precision = best_precision(place, max(map(parameters, nets), default=0))
    dtype = PRECISIONS[precision]
    halves = [half for a in autoencoders for half in (a.encoder, a.decoder)]
    for net in nets:
        _convert(net, dtype)
    for half in halves:
        _narrow(half, dtype if dtype == torch.bfloat16 and parameters(half) >= LARGE else torch.float32)
    for network in (*nets, *halves):
        make_seamless(network, seamless)
    for autoencoder in autoencoders:
        make_tiled(autoencoder, tile, wrap=seamless)
    if place.type == "cpu":
        keep_freed()
        for network in (*nets, *halves):
            pack(network)
    elif offload:
        Offload(system, place)
    else:
        system.to(place)
    if place.type == "cuda" and dtype != torch.float32:
        for network in (*nets, *halves):
            network.to(memory_format=torch.channels_last)
    return system


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _is_autoencoder(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("encode", "decode", "encoder", "decoder", "f"))


def _undo(system: nn.Module) -> None:
    """Whatever an earlier preparation has put on."""
    unpack(system)
    if isinstance(system.__dict__.get("offload"), Offload):
        system.__dict__.pop("offload").end()
    for module in system.modules():
        for hook in module.__dict__.pop("_doors", ()):
            hook.remove()


def _convert(net: nn.Module, dtype: torch.dtype) -> None:
    """Module.to(dtype), tensor by tensor: of the old ones no more than one is in memory."""
    for tensor in _tensors(net):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            old, tensor.data = tensor.data, tensor.data.to(dtype)
            let_go(old)
            del old
            give_back()


def _narrow(half: nn.Module, dtype: torch.dtype) -> None:
    """A network in `dtype` that takes float32 and gives float32."""
    _convert(half, dtype)
    if dtype != torch.float32:
        entrance = half.register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype) for x in inputs))
        half._doors = entrance, half.register_forward_hook(lambda _, inputs, y: y.float())


# Devices and what they are good at ----------------------------------------------------------------------------------


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


def best_precision(place: torch.device, size: int) -> str:
    """What "auto" is for denoisers of which the largest has `size` parameters.

    A small network stays exact on a CPU: its pictures are there soon enough.
    """
    if place.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(False) else "fp32"
    if place.type == "cpu" and size >= LARGE:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: absent is no
        return "bf16" if any(getattr(torch.cpu, name, bool)() for name in tests) else "fp32"
    return "fp32"


def circumstances(system: nn.Module) -> dict[str, Any]:
    """Where a prepared system works, as receipts say it: device, its kind, a CPU's threads, denoisers' precision."""
    place = torch.device(getattr(system, "device", "cpu"))
    names = {dtype: name for name, dtype in PRECISIONS.items()}
    dtypes = [p.dtype for m in system.modules() if isinstance(m, Denoiser) for p in m.net.parameters()][:1]
    return {
        "device": str(place),
        "device_kind": device_kind(place),
        **({"threads": torch.get_num_threads()} if place.type == "cpu" else {}),
        "precision": next((names[dtype] for dtype in dtypes if dtype in names), "fp32"),
    }


@functools.cache
def device_kind(place: torch.device) -> str:
    """Whose kernels calculate: a GPU's name; a processor's name and the instructions that torch uses there."""
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux says more there
        told = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        name = told[1].strip() if told else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if place.type == "cpu" else name


# Offload ------------------------------------------------------------------------------------------------------------


class Offload:
    """One part of a system at a time on the device: encoder of prompts, denoiser's network, autoencoder.

    A part is brought when it is called, and the one before it goes. The weights stay in memory all the while, so that
    going costs nothing. What belongs to no part is on the device always.
    """

    methods = ("forward", "encode", "decode")  # the doors by which a part is entered

    def __init__(self, system: nn.Module, place: torch.device):
        self.system, self.place, self.there = system, place, None
        self.at_home: list[tuple[Tensor, Tensor]] = []  # (a tensor of the part that is there, its numbers in memory)
        self.parts = list(_parts(system))
        inside = {id(t) for part in self.parts for t in _tensors(part)}
        for tensor in _tensors(system):
            if id(tensor) not in inside:
                tensor.data = _there(tensor.data, place)
        for part in self.parts:
            for name in self.methods:
                if hasattr(part, name):
                    setattr(part, name, self._bringing(part, getattr(part, name)))
        system.offload, system.place = self, place

    def _bringing(self, part: nn.Module, method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.there is not part:
                self.home()
                self.bring(part)
            return method(*args, **kwargs)

        return call

    def bring(self, part: nn.Module) -> None:
        self.there = part
        for tensor in _tensors(part):
            self.at_home.append((tensor, tensor.data))
            tensor.data = _there(tensor.data, self.place)

    def home(self) -> None:
        """Frees the device of the part that is there."""
        for tensor, numbers in self.at_home:
            tensor.data = numbers
        self.there = None
        self.at_home.clear()

    def end(self) -> None:
        """The system as it was, in memory."""
        self.home()
        for part in self.parts:
            for name in self.methods:
                part.__dict__.pop(name, None)
        self.system.place = None


def _there(numbers: Tensor, place: torch.device) -> Tensor:
    return numbers.to(place, non_blocking=True)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _parts(system: nn.Module) -> list[nn.Module]:
    """What works one after the other: a denoiser's network, or a child with parameters that holds no denoiser."""
    if isinstance(system, Denoiser):
        return [system.net]
    if any(isinstance(m, Denoiser) for m in system.modules()):
        return [part for child in system.children() for part in _parts(child)]
    return [system] if _tensors(system) else []
