"""Convolutions and linear layers with their weights laid out once, as oneDNN wants them, and not at every call.

And what goes with that: channels last, GEGLU's product fused, and a group norm that stays exact with channels last.

Put on from outside: a layer stays the object that it is, with its name and its hooks, and changes its class and its
weight. The operators are private ones of torch's: where they are missing, everything is left as it is.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .memory import give_back, let_go
from .nets.layers import GEGLU


class PackedConv2d(nn.Conv2d):
    """A convolution whose weight is packed, for inputs of any size; it works with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        if _differentiated(self, x):
            return self._conv_forward(x, self.weight.to_dense(), self.bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0)
        x = x.contiguous(memory_format=torch.channels_last)
        how: tuple[Any, ...] = (padding, self.stride, self.dilation, self.groups, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *how)


class PackedLinear(nn.Linear):
    """A linear layer whose weight is packed, for any number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        if _differentiated(self, x):
            return F.linear(x, self.weight.to_dense(), self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class PackedHalves(nn.Linear):
    """A linear layer packed in two: `weight` gives the first half of what it gives, `second` the rest."""

    def forward(self, x: Tensor) -> Tensor:
        if _differentiated(self, x):
            return F.linear(x, torch.cat([self.weight.to_dense(), self.second.to_dense()]), self.bias)
        parts = zip((self.weight, self.second), self.biases())
        return torch.cat([torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "") for w, b in parts], dim=-1)

    def biases(self) -> tuple[Tensor | None, Tensor | None]:
        if self.bias is None:
            return None, None
        first, second = self.bias.chunk(2)
        return first, second


class PackedGEGLU(GEGLU):
    """value · GELU(gate), multiplied while `value` is calculated: its numbers never go through memory."""

    def forward(self, x: Tensor) -> Tensor:
        proj, linear = self.proj, torch.ops.mkldnn._linear_pointwise
        watched = proj._forward_hooks or proj._forward_pre_hooks  # by an adapter, that wants its output
        if watched or _differentiated(self, x):
            return super().forward(x)
        value, gate = proj.biases()
        gate = torch.ops.aten.gelu_(linear(x, proj.second, gate, "none", [], ""))
        return self.out(linear.binary(x, gate, proj.weight, value, "mul"))


class StripGroupNorm(nn.GroupNorm):
    """A group norm of float32 with channels last, as exact as with channels first.

    torch's kernel for that layout adds up squares, of a whole picture, in one float32 a lane: at 512×512 it is wrong by
    4e-5, and where a mean is ten times the deviation by 1e-5. Here a mean of some pixels is taken off beforehand, and
    the kernel takes a strip of the picture at a time.

    From 1024 pixels on that kernel divides a whole batch's pixels among the threads: it is given one picture at a time,
    so that none depends on the others.
    """

    pixels = 1024  # of a strip, about

    def forward(self, x: Tensor) -> Tensor:
        last = x.ndim == 4 and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
        if not last or _differentiated(self, x):
            return super().forward(x)
        b, c, n, groups = len(x), x.shape[1], math.prod(x.shape[2:]), self.num_groups
        spread = functools.partial(torch.repeat_interleave, repeats=c // groups, dim=1)  # (B, groups) → (B, C)
        about = spread(x[..., ::8, ::8].mean((2, 3)).view(b, groups, -1).mean(2))
        x = x - about[..., None, None]
        parts = x.split(1) if n >= 1024 and b > 1 and torch.get_num_threads() > 1 else [x]
        if n <= self.pixels:
            each = [F.group_norm(part, groups, self.weight, self.bias, self.eps) for part in parts]
            return torch.cat(each) if len(each) > 1 else each[0]
        k = next(k for k in range(n // self.pixels, n + 1) if n % k == 0)
        strips = [part.permute(0, 2, 3, 1).reshape(-1, 1, n // k, c).permute(0, 3, 1, 2) for part in parts]  # views
        sizes = c, n // k, groups, self.eps
        mean, scale = map(torch.cat, zip(*(torch.native_group_norm(s, None, None, len(s), *sizes)[1:] for s in strips)))
        means, variances = mean.view(b, k, groups), scale.view(b, k, groups) ** -2 - self.eps
        mean = means.mean(1)
        scale = spread(((variances + (means - mean[:, None]).square()).mean(1) + self.eps).rsqrt())
        scale = scale if self.weight is None else scale * self.weight
        shift = -spread(mean) * scale
        shift = shift if self.bias is None else shift + self.bias
        return torch.addcmul(shift[..., None, None], x, scale[..., None, None], out=x)


def _differentiated(layer: nn.Module, x: Tensor) -> bool:
    """The packed operators have no gradient: where one is asked for, the weight is unpacked for the call."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Whether the operators are there and give what the plain ones give, in this precision."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        close = 1e-5 if dtype == torch.float32 else 0.05
        for layer, shape in (
            (nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 6, 5)),
            (nn.Linear(7, 5), (2, 3, 7)),
            (GEGLU(4), (2, 4)),
        ):
            x = torch.randn(shape).to(dtype)
            plain = layer.to(dtype)(x)
            try:
                _pack_all(layer)
                if not torch.allclose(layer(x), plain, close, close):
                    return False
            except (RuntimeError, AttributeError):  # NotImplementedError is a RuntimeError
                return False
    return True


def pack(net: nn.Module) -> None:
    """Packs every plain convolution and linear layer inside, one by one: each original is freed before the next.

    What is no exact nn.Conv2d or nn.Linear, and precisions that the operators do not know, stay as they are.
    """
    dtypes = {p.dtype for p in net.parameters() if p.is_floating_point()}
    if all(works(dtype) for dtype in dtypes):
        _pack_all(net)


def _pack_all(net: nn.Module) -> None:
    for layer in net.modules():
        if type(layer) is GEGLU and type(layer.proj) is nn.Linear:
            _halve(layer)
        elif type(layer) is nn.Linear:
            _become(layer, PackedLinear, torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()))
        elif type(layer) is nn.Conv2d and not isinstance(layer.padding, str):
            how = layer.padding, layer.stride, layer.dilation, layer.groups
            weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *how)
            _become(layer, PackedConv2d, weight)
        elif type(layer) is nn.GroupNorm:
            layer.__class__ = StripGroupNorm


def _halve(layer: GEGLU) -> None:
    """Before `proj` is met among the modules by itself: it comes after the layer that it is in."""
    value, gate = layer.proj.weight.detach().chunk(2)
    layer.proj.second = nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(gate), requires_grad=False)
    _become(layer.proj, PackedHalves, torch.ops.mkldnn._reorder_linear_weight(value))
    layer.__class__ = PackedGEGLU


def _become(layer: nn.Module, kind: type, weight: Tensor) -> None:
    if not layer.weight.is_mkldnn:
        let_go(layer.weight)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.__class__ = kind
    if weight.numel() >= 2**18:
        give_back()


def unpack(net: nn.Module) -> None:
    """The plain layers again, bit by bit as they were."""
    for layer in net.modules():
        if isinstance(layer, PackedGEGLU):
            layer.__class__ = GEGLU
        elif isinstance(layer, PackedHalves):
            whole = torch.cat([layer.weight.to_dense(), layer.second.to_dense()])
            del layer.second
            _become(layer, nn.Linear, whole)
        elif isinstance(layer, PackedLinear):
            _become(layer, nn.Linear, layer.weight.to_dense())
        elif isinstance(layer, PackedConv2d):
            _become(layer, nn.Conv2d, layer.weight.to_dense())
        elif isinstance(layer, StripGroupNorm):
            layer.__class__ = nn.GroupNorm
