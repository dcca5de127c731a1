"""Prompts between two prompts: what an encoder makes of the one, moved towards what it makes of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..diffusion.cond import Cond
from ..diffusion.noise import Between
from ..errors import Problem

Encoder = Callable[[Sequence], Cond]


def mixing(encoder: Encoder) -> Encoder:
    """The encoder, which now also reads a prompt `Between(a, b, share)`: each tensor is a + share·(b − a).

    On the way the prompt of fewer tokens has its last one repeated, so that none appears at once; at share 0 and 1 it
    is the prompt itself. Raises Problem for a share outside of [0, 1].
    """

    def encode(prompts: Sequence) -> Cond:
        ways = [p if isinstance(p, Between) else Between(p, p, 0.0) for p in prompts]
        for way in ways:
            if not 0 <= way.share <= 1:
                raise Problem(f"share {way.share}: a place between two prompts is from 0, the first, to 1, the second")
        both = encoder([way.a for way in ways] + [way.b for way in ways])  # one batch: of one length
        a, b = both[: len(ways)], both[len(ways) :]
        share = torch.tensor([way.share for way in ways])
        mask = None
        if a.mask is not None:
            near = share[:, None].to(a.mask.device)
            mask = a.mask & (near < 1) | b.mask & (near > 0)
        return Cond(_mixed(a.vector, b.vector, share), _mixed(_lengthened(a), _lengthened(b), share), mask)

    return encode


def _mixed(a: Tensor | None, b: Tensor | None, share: Tensor) -> Tensor | None:
    return None if a is None else torch.lerp(a, b, share.to(a).view(-1, *[1] * (a.ndim - 1)))


def _lengthened(cond: Cond) -> Tensor | None:
    """The tokens, with each row's last real one in the place of those that are not real."""
    if cond.tokens is None or cond.mask is None:
        return cond.tokens
    places = torch.arange(cond.mask.shape[1], device=cond.mask.device)
    last = torch.where(cond.mask, places, 0).amax(1)  # (B,)
    repeated = cond.tokens[torch.arange(len(last), device=last.device), last][:, None]  # (B, 1, D)
    return torch.where(cond.mask[..., None], cond.tokens, repeated)
