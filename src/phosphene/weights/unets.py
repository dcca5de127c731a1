"""A U-Net under the two sets of names in use: ldm's (input_blocks.3.0) and diffusers' (down_blocks.0.resnets.1).

ldm's, which guided-diffusion invented, counts one list through all levels; diffusers' counts inside each level. Both
functions walk through a network of ours, so a table fits the network that it is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import Problem
from ..nets.joint import CrossAttention2d, JointAttention2d
from ..nets.layers import ResBlock
from ..nets.unet import HalfUNet, Level, UNet
from .tables import Entry, Same, layer

Attend = Callable[
    [nn.Module, str, str], list[Entry]
]  # (an attention, its prefix here, its prefix there) -> its entries

LDM = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "emb": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
DIFFUSERS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "emb": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}


def res_block(block: ResBlock, ours: str, theirs: str, names: dict[str, str]) -> list[Entry]:
    """A residual block; what it does not have (an embedding, a shortcut) has no entry."""
    parts = {name: getattr(block, name) for name in names}
    has = [name for name, module in parts.items() if module is not None and not isinstance(module, nn.Identity)]
    return [e for name in has for e in layer(f"{ours}.{name}", f"{theirs}.{names[name]}")]


def transformer(ones: int = 0) -> Attend:
    """A SpatialTransformer, whose inside has the same names on both sides.

    `ones`: its projections are written as 1×1 convolutions (2), as in Stable Diffusion 1, or as matrices (0).
    """
    inside = {
        "norm1": "norm1",
        "attn1.to_out": "attn1.to_out.0",
        "norm2": "norm2",
        "attn2.to_out": "attn2.to_out.0",
        "norm3": "norm3",
        "ff.proj": "ff.net.0.proj",
        "ff.out": "ff.net.2",
    }

    def entries(attend: nn.Module, ours: str, theirs: str) -> list[Entry]:
        made = layer(f"{ours}.norm", f"{theirs}.norm")
        for name in ("proj_in", "proj_out"):
            made += layer(f"{ours}.{name}", f"{theirs}.{name}", Same(ones))
        for i in range(len(attend.layers)):
            here, there = f"{ours}.layers.{i}", f"{theirs}.transformer_blocks.{i}"
            for name, other in inside.items():
                made += layer(f"{here}.{name}", f"{there}.{other}")
            for name in (f"attn{n}.to_{c}" for n in (1, 2) for c in "qkv"):
                made += layer(f"{here}.{name}", f"{there}.{name}", bias=False)
        return made

    return entries


def separate(old: bool = False) -> Attend:
    """diffusers' attention of pixels, with q, k and v apart; `old`: query, key, value and proj_attn, as before 0.19.

    Where tokens are attended to as well, or alone, their keys and values are add_k_proj and add_v_proj.
    """
    q, k, v, out = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")

    def entries(attend: nn.Module, ours: str, theirs: str) -> list[Entry]:
        alone = isinstance(attend, CrossAttention2d)
        pairs = {"norm": "group_norm", "attn.to_q": q, "attn.to_out": out}
        pairs |= {"attn.to_k": "add_k_proj", "attn.to_v": "add_v_proj"} if alone else {"attn.to_k": k, "attn.to_v": v}
        if isinstance(attend, JointAttention2d):
            pairs |= {"to_k": "add_k_proj", "to_v": "add_v_proj"}
        if isinstance(getattr(attend, "norm_tokens", None), nn.GroupNorm):
            pairs["norm_tokens"] = "norm_cross"
        return [e for name, other in pairs.items() for e in layer(f"{ours}.{name}", f"{theirs}.{other}")]

    return entries


def known(config: Mapping[str, Any], settings: Mapping[str, Sequence[Any]], what: str) -> None:
    """Problem for a setting of a diffusers configuration that is none of those known; the first is the default."""
    for key, values in settings.items():
        said = config.get(key, values[0])
        for value in said if isinstance(said, list) else [said]:
            if value not in values:
                shown = ", ".join(str(v) for v in values)
                raise Problem(f"{what}: {key}={said!r} in its config.json is not known here, only {shown}")


def ldm(net: HalfUNet, attend: Attend) -> list[Entry]:
    """The names of ldm, guided-diffusion, GLIDE and karlo: input_blocks, middle_block, output_blocks.

    Of a classifier, which has no right half, all but its head.
    """
    made = _ends(net, ("time_embed.0", "time_embed.2"), "input_blocks.0.0", ("out.0", "out.2"))

    block: Level

    def level(level: Level, ours: str, theirs: str) -> list[Entry]:
        return _level(level, ours, (f"{theirs}.0", f"{theirs}.1"), LDM, attend)

    k = 1
    for i, blocks in enumerate(net.encoder):
        for j, block in enumerate(blocks):
            made += level(block, f"encoder.{i}.{j}", f"input_blocks.{k}")
            k += 1
        if i < len(net.downs):
            made += _resized(net.downs[i], f"downs.{i}", f"input_blocks.{k}.0", "op", LDM)
            k += 1
    made += level(net.middle[0], "middle.0", "middle_block")
    made += res_block(
        net.middle[1].block, "middle.1.block", f"middle_block.{1 + (net.middle[0].attend is not None)}", LDM
    )
    k = 0
    for i, blocks in enumerate(getattr(net, "decoder", [])):
        for j, block in enumerate(blocks):
            made += level(block, f"decoder.{i}.{j}", f"output_blocks.{k}")
            k += 1
        if i < len(net.ups):
            place = 1 + (blocks[-1].attend is not None)
            made += _resized(net.ups[i], f"ups.{i}", f"output_blocks.{k - 1}.{place}", "conv", LDM)
    return made


def diffusers(net: UNet, attend: Attend) -> list[Entry]:
    """The names of diffusers: down_blocks, mid_block, up_blocks."""
    made = _ends(net, ("time_embedding.linear_1", "time_embedding.linear_2"), "conv_in", ("conv_norm_out", "conv_out"))

    block: Level

    def level(level: Level, ours: str, theirs: str, j: int) -> list[Entry]:
        return _level(level, ours, (f"{theirs}.resnets.{j}", f"{theirs}.attentions.{j}"), DIFFUSERS, attend)

    for i, blocks in enumerate(net.encoder):
        for j, block in enumerate(blocks):
            made += level(block, f"encoder.{i}.{j}", f"down_blocks.{i}", j)
        if i < len(net.downs):
            made += _resized(net.downs[i], f"downs.{i}", f"down_blocks.{i}.downsamplers.0", "conv", DIFFUSERS)
    for j, block in enumerate(net.middle):
        made += level(block, f"middle.{j}", "mid_block", j)
    for i, blocks in enumerate(net.decoder):
        for j, block in enumerate(blocks):
            made += level(block, f"decoder.{i}.{j}", f"up_blocks.{i}", j)
        if i < len(net.ups):
            made += _resized(net.ups[i], f"ups.{i}", f"up_blocks.{i}.upsamplers.0", "conv", DIFFUSERS)
    return made


def _ends(net: HalfUNet, time: tuple[str, str], first: str, last: tuple[str, str]) -> list[Entry]:
    """What stands before and behind the levels."""
    made = layer("time.mlp.0", time[0]) + layer("time.mlp.2", time[1]) + layer("conv_in", first)
    if isinstance(net, UNet):
        made += layer("norm_out", last[0]) + layer("conv_out", last[1])
    return made


def _level(level: Level, ours: str, theirs: tuple[str, str], names: dict[str, str], attend: Attend) -> list[Entry]:
    made = res_block(level.block, f"{ours}.block", theirs[0], names)
    return made if level.attend is None else made + attend(level.attend, f"{ours}.attend", theirs[1])


def _resized(module: nn.Module, ours: str, theirs: str, conv: str, names: dict[str, str]) -> list[Entry]:
    """A way down or up: a residual block, or a convolution of the name `conv`."""
    if isinstance(module, ResBlock):
        return res_block(module, ours, theirs, names)
    return layer(f"{ours}.conv", f"{theirs}.{conv}")
