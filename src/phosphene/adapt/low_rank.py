"""LoRA on a system: y + strength · alpha/r · up(down(x)) beside its layers (Hu et al. 2021, §4.1).

Put on from outside, by hooks on the layers that it changes, so that it goes onto a system in any precision, several add
up, and none is ever taken out of rounded weights.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..parts import part
from ..weights import lora
from ..weights.low_rank import WIDTHS, Lora, LowRank
from .worn import Worn, worn


@part
class Adapter(Worn, nn.Module):
    """A LoRA on a system. Its parameters are the down and up of every layer; `new` makes one to train.

    layers  {module path: [shape of down, shape of up, alpha]}: what a bundle says of it; `of` makes one of layers
    """

    kind = "lora"

    def __init__(self, layers: Mapping[str, Sequence[Any]]):
        super().__init__()
        empty = [Layer(LowRank(torch.empty(down), torch.empty(up), alpha)) for down, up, alpha in layers.values()]
        self.paths, self.layers = list(layers), nn.ModuleList(empty)
        self._changed: list[nn.Module] = []  # of the system
        self._hooks: list[Any] = []
        self.strength = 1.0

    @classmethod
    def of(cls, layers: Mapping[str, Layer]) -> Adapter:
        """{module path: Layer} → what goes onto a system."""
        adapter = cls({path: layer.said for path, layer in layers.items()})
        adapter.layers = nn.ModuleList(layers.values())
        return adapter

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        if not isinstance(strength, (int, float)) or not math.isfinite(strength):
            raise Problem(f"strength {strength!r} of a LoRA: a number such as 0.8 was expected")
        self._strength = strength
        self._hang()

    def _on(self, system: nn.Module) -> None:
        self._changed = [system.get_submodule(path) for path in self.paths]
        for layer, module in zip(self.layers, self._changed):
            _fitting(LowRank(layer.down, layer.up, layer.alpha), module)
        self._hang()

    def _off(self) -> None:
        self._changed = []
        self._hang()

    def _hang(self) -> None:
        """Hooks where there is something to add: without them a layer does exactly, and as fast, what it did before."""
        if self._strength and not self._hooks:
            pairs = zip(self._changed, self.layers)
            self._hooks = [module.register_forward_hook(self._hook(layer)) for module, layer in pairs]
        while self._hooks and not (self._strength and self._changed):
            self._hooks.pop().remove()

    def _hook(self, layer: Layer):
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return layer(inputs[0], output, module, self._strength)

        return add

    def lora(self) -> Lora:
        """What it is now, for `lora.write`, `write_kohya` or `write_peft`."""
        return Lora({path: layer.low() for path, layer in zip(self.paths, self.layers)})

    def save(self, path: str | Path) -> Path:
        """Writes it in our own form, which names the layers of any system (weights/lora.py)."""
        lora.write(self.lora(), path)
        return Path(path)


class Layer(nn.Module):
    """y + strength · scale · up(down(x)) beside one layer, linear or a convolution, whose y it changes in place.

    low     in the form of that layer
    source  as its file has it, where it came from one
    """

    def __init__(self, low: LowRank, source: LowRank | None = None):
        super().__init__()
        self.source, self.alpha, self.scale = source, low.alpha, low.scale
        self.down = nn.Parameter(low.down, requires_grad=False)
        self.up = nn.Parameter(low.up, requires_grad=False)
        self._at: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, y: Tensor, beside: nn.Module, strength: float) -> Tensor:
        down, up = self._weights(x, y)
        if down.ndim == 2:
            inner = F.linear(x, down).to(y.dtype)  # (…, r)
            return y.flatten(0, -2).addmm_(inner.flatten(0, -2), up.T, alpha=strength * self.scale).view(y.shape)
        inner = beside._conv_forward(x, down, None).to(y.dtype)  # its stride, its padding, which may be circular
        return y.add_(F.conv2d(inner, up), alpha=strength * self.scale)

    def _weights(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """down as x is and up as y, on their device; kept there, unless they are being trained."""
        if self.down.requires_grad:
            return self.down.to(x), self.up.to(y)
        there = x.device, x.dtype, y.dtype
        if self._at is None or self._at[0] != there:
            self._at = there, self.down.to(x), self.up.to(y)
        return self._at[1:]

    def low(self) -> LowRank:
        """As it came from its file, or as it was trained to be."""
        if self.source is not None and not self.down.requires_grad:
            return self.source
        return LowRank(self.down.detach(), self.up.detach(), self.alpha)

    @property
    def said(self) -> list[Any]:
        """[shape of down, shape of up, alpha]."""
        return [list(self.down.shape), list(self.up.shape), self.alpha]


def apply(system: nn.Module, file: str | Path | Lora, strength: float = 1.0, name: str | None = None) -> Adapter:
    """Puts a LoRA on: all of it, or nothing and a Problem.

    file  a LoRA as `lora.read` knows them, or one that was read
    name  what it is called; None is the file's stem
    Raises Problem for a layer that the system does not have or that is of another shape, saying what family of models
    the LoRA seems to be for; for a file or a name that is on already; for a strength that is no number.
    """
    found = file if isinstance(file, Lora) else lora.read(file)
    layers = {}
    for path, low in found.layers.items():
        beside = _layer(system, path)
        if beside is None:
            raise Problem(
                f"{found.name} changes {path}, which is not in {_what(system)}: it seems to be for {found.family}"
            )
        try:
            layers[path] = Layer(_fitting(low.plain(), beside), low)
        except ValueError as error:
            raise Problem(
                f"{found.name}: {path} {error} in {_what(system)}: it seems to be for {found.family}"
            ) from None
    adapter = Adapter.of(layers)
    adapter.strength = strength
    adapter.put(system, name or found.stem, found.path)
    return adapter


def new(
    system: nn.Module,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] = ("denoiser.*.to_[qkv]", "denoiser.*.to_out"),
    name: str = "new",
) -> Adapter:
    """A LoRA to train, which begins as nothing: train `adapter.parameters()` on `system.loss`, then `adapter.save`.

    alpha    None is the rank, a scale of 1
    targets  the layers, as shell patterns of module paths; those that are linear or convolutions are taken
    down is drawn by Kaiming He's rule from torch's generator, up is 0. Raises Problem for a pattern without a layer.
    """
    if type(rank) is not int or rank < 1:
        raise Problem(f"rank={rank}: a whole number, at least 1, was expected")
    layers: dict[str, Layer] = {}
    for pattern in targets:
        named = {path: m for path, m in system.named_modules() if fnmatch.fnmatchcase(path, pattern) and _takes(m)}
        if not named:
            raise Problem(f"target {pattern!r}: no linear layer or convolution of {type(system).__name__} is called so")
        for path, module in named.items():
            out, *inside = _shape(module)
            down = torch.empty(rank, *inside, device=module.weight.device)
            nn.init.kaiming_uniform_(down, math.sqrt(5))
            up = torch.zeros(out, rank, *[1] * (len(inside) - 1 and 2), device=down.device)
            layers[path] = Layer(LowRank(down, up, float(rank if alpha is None else alpha)))
    adapter = Adapter.of(layers)
    adapter.requires_grad_(True)
    adapter.put(system, name, None)
    return adapter


@torch.no_grad()
def bake(system: nn.Module) -> None:
    """Adds the LoRAs that are on, at their strengths, to the weights, and takes them off: for convert.

    Raises Problem for a system that was prepared for sampling, whose weights are packed.
    """
    on = [w for w in worn(system) if isinstance(w, Adapter)]
    for adapter in on:
        for path in adapter.paths:
            if system.get_submodule(path).weight.is_mkldnn:
                raise Problem(f"{path} is packed for sampling: LoRAs are baked into a system as it was loaded")
    for adapter in on:
        for path, low in adapter.lora().layers.items():
            weight = system.get_submodule(path).weight
            changed = weight.float() + adapter.strength * low.change().reshape(weight.shape).to(weight.device)
            system.get_submodule(path).weight = nn.Parameter(changed.to(weight.dtype), weight.requires_grad)
        adapter.remove()


@contextmanager
def merged(system: nn.Module) -> Iterator[None]:
    """`bake` for as long as the `with` statement lasts, to write it down; afterwards all is as it was, bit for bit."""
    everything = worn(system)
    on = [w for w in everything if isinstance(w, Adapter)]
    weights = {module: module.weight for adapter in on for module in adapter._changed}
    bake(system)
    try:
        yield
    finally:
        for module, weight in weights.items():
            module.weight = weight
        for adapter in on:
            adapter._on(system)
        system.__dict__["worn"][:] = everything


def _layer(system: nn.Module, path: str) -> nn.Module | None:
    try:
        return system.get_submodule(path)
    except AttributeError:
        return None


def _takes(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _shape(module: nn.Module) -> tuple[int, ...]:
    """Of its weight: (out, in) or (out, in, kh, kw)."""
    names = "out_channels in_channels" if isinstance(module, nn.Conv2d) else "out_features in_features"
    return *(getattr(module, name) for name in names.split()), *getattr(module, "kernel_size", ())


def _fitting(low: LowRank, beside: nn.Module) -> LowRank:
    """The LoRA in its layer's form: a 1×1 convolution is a linear layer. ValueError where it does not fit."""
    if not _takes(beside):
        raise ValueError(f"is a {type(beside).__name__}, which takes no LoRA,")
    out, *inside = _shape(beside)
    down, up = low.down, low.up
    theirs = (up.shape[0], *down.shape[1:])
    if _bare(theirs) != _bare((out, *inside)):
        raise ValueError(f"is {_said(theirs)} in the file and {_said((out, *inside))}")
    up = up.flatten(1)
    return replace(low, down=down.reshape(-1, *inside), up=up[..., None, None] if len(inside) == 3 else up)


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape) if math.prod(shape[2:]) != 1 else tuple(shape[:2])


def _said(shape: Sequence[int]) -> str:
    return f"{shape[1]} → {shape[0]}" + "".join(f"{', ' if i == 0 else '×'}{k}" for i, k in enumerate(shape[2:]))


def _what(system: nn.Module) -> str:
    """The system, and how wide its text is, which tells Stable Diffusion 1 from 2."""
    widths = [_shape(m)[1] for path, m in system.named_modules() if path.endswith("attn2.to_k")]
    if not widths:
        return f"this {type(system).__name__}"
    return WIDTHS.get(widths[0], f"this model, whose text is {widths[0]} wide")
