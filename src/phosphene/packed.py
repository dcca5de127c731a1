"""Convolutions and linear layers with their weights laid out once, as oneDNN wants them, and not at every call.

Put on from outside: a layer stays the object that it is, with its name and its hooks, and changes its class and its
weight. The operators are private ones of torch's: where they are missing, everything is left as it is.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedConv2d(nn.Conv2d):
    """A convolution whose weight is packed, for inputs of any size; it works with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        if _differentiated(x):
            return self._conv_forward(x, self.weight.to_dense(), self.bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0)
        x = x.contiguous(memory_format=torch.channels_last)
        how = (padding, self.stride, self.dilation, self.groups, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *how)


class PackedLinear(nn.Linear):
    """A linear layer whose weight is packed, for any number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        if _differentiated(x):
            return F.linear(x, self.weight.to_dense(), self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _differentiated(x: Tensor) -> bool:
    """The packed operators have no gradient: where one is asked for, the weight is unpacked for the call."""
    return torch.is_grad_enabled() and x.requires_grad


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Whether the operators are there and give what the plain ones give, in this precision."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    g = torch.Generator().manual_seed(0)
    conv, linear = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Linear(7, 5)
    x, y = torch.randn(2, 3, 6, 5, generator=g).to(dtype), torch.randn(2, 3, 7, generator=g).to(dtype)
    try:
        with torch.no_grad():
            plain = conv.to(dtype)(x), linear.to(dtype)(y)
            _pack(conv), _pack(linear)
            close = 1e-5 if dtype == torch.float32 else 0.05
            return all(torch.allclose(a, b, close, close) for a, b in zip(plain, (conv(x), linear(y))))
    except (RuntimeError, AttributeError):  # NotImplementedError is a RuntimeError
        return False


def pack(net: nn.Module) -> None:
    """Packs every plain convolution and linear layer inside, one by one: each original is freed before the next.

    What is no exact nn.Conv2d or nn.Linear, and precisions that the operators do not know, stay as they are.
    """
    for layer in net.modules():
        if _packable(layer) and works(layer.weight.dtype):
            _pack(layer)


def _packable(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return not isinstance(layer.padding, str) and layer.padding_mode in ("zeros", "circular")
    return type(layer) is nn.Linear


def _pack(layer: nn.Module) -> None:
    plain, ops = layer.weight.detach(), torch.ops.mkldnn
    if isinstance(layer, nn.Conv2d):
        kind, weight = (
            PackedConv2d,
            ops._reorder_convolution_weight(plain, layer.padding, layer.stride, layer.dilation, layer.groups),
        )
    else:
        kind, weight = PackedLinear, ops._reorder_linear_weight(plain)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.__class__ = kind


def unpack(net: nn.Module) -> None:
    """The plain layers again, bit by bit as they were."""
    for layer in net.modules():
        if isinstance(layer, PackedConv2d | PackedLinear):
            layer.weight = nn.Parameter(layer.weight.to_dense(), requires_grad=False)
            layer.__class__ = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
