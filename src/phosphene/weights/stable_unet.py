"""Stable Diffusion's U-Net: its structure from the shapes of its tensors, under ldm's names or diffusers'.

What shapes do not say (attention heads, groups and eps of the norms) comes from the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import Problem
from ..nets.layers import (
    Conventions,
    CornerDownsample,
    Downsample,
    ResBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
)
from ..nets.unet import UNet
from . import unets
from .load import Found
from .settings import listed, number, whole
from .tables import Shape, empty, fill
from .vae import counted

KNOWN_WIDTHS = {(320, 768), (320, 1024)}  # (channels, width of the words) of Stable Diffusion 1 and 2
LDM_FIRST, DIFFUSERS_FIRST = "input_blocks.0.0.weight", "conv_in.weight"
WORDS = ".transformer_blocks.0.attn2.to_k.weight"

# Keys of a diffusers configuration that change what is computed, with the values that are known here
KNOWN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1, 0),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def is_ldm(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are a text-to-image U-Net under ldm's names: words are attended to."""
    return LDM_FIRST in shapes and any(key.endswith(WORDS) for key in shapes)


def is_diffusers(shapes: Mapping[str, Shape]) -> bool:
    """The same under diffusers' names."""
    mine = DIFFUSERS_FIRST in shapes and any(key.startswith("down_blocks.") for key in shapes)
    return mine and any(key.endswith(WORDS) for key in shapes)


def read(tensors: Mapping[str, Any], config: Mapping[str, Any], heads: Any, what: str, dtype: torch.dtype) -> UNet:
    """The network, its weights in `dtype`. heads: how many, a number or one a level.

    config: of diffusers, else {}. Raises Problem where a setting or a tensor has no place.
    """
    check(config, what)
    shapes = tensors.shapes
    try:
        net = empty(lambda: network(shapes, config, heads, what))
    except (KeyError, IndexError, StopIteration, ValueError, ZeroDivisionError, TypeError) as error:
        raise Problem(f"{what} is not a U-Net that can be read here ({error})") from None
    return fill(net, entries(net, LDM_FIRST in shapes), tensors, what=what, dtype=dtype)


def entries(net: UNet, ldm: bool, ones: int = 0) -> list:
    """The table of a network. ones=2: written with 1×1 convolutions around the transformers, as in version 1."""
    return (unets.ldm if ldm else unets.diffusers)(net, unets.transformer(ones))


def check(config: Mapping[str, Any], what: str) -> None:
    """Problem for a setting that changes what is computed in a way unknown here; others do not matter."""
    for key, known in KNOWN.items():
        said = config.get(key, known[0])
        for value in said if isinstance(said, list) else [said]:
            if value not in known:
                raise Problem(f"{what}: {key}={said!r} in its config.json is not known here, only {known[0]!r}")
    for key, known in BLOCKS.items():
        for named in listed(config, key, what):
            if named not in known:
                raise Problem(f"{what}: {key} has {named!r} in its config.json; known here: {', '.join(known)}")


def heads_of(found: Found, shapes: Mapping[str, Shape], params: Mapping[str, Any], open_clip: bool) -> list[int]:
    """Heads at each level: of a diffusers configuration, a yaml's unet_config.params, what is told, or as usual.

    Version 1 has 8 everywhere, version 2 as many as make heads of 64 channels; at other widths that is assumed aloud.
    Raises Problem where they do not divide the channels.
    """
    channels = [c for c, _, _ in levels(shapes)]
    first, words = channels[0], _words(shapes)
    if found.kind == "UNet2DConditionModel" or "attention_head_dim" in found.config:
        heads = found.config.get("num_attention_heads") or found.config.get("attention_head_dim", 8)
    elif "heads" in found.told:
        heads = found.told["heads"]
    elif params.get("num_head_channels", -1) not in (-1, None):
        size = whole(params, "num_head_channels", 64, str(found.path.with_suffix(".yaml")))
        heads = [c // size for c in channels]
    elif params.get("num_heads", -1) not in (-1, None):
        heads = params["num_heads"]
    else:
        heads = [max(1, c // 64) for c in channels] if open_clip or words == 1024 else 8
        heads = heads if (first, words) in KNOWN_WIDTHS else found.assume("heads", heads)
    heads = list(heads) if isinstance(heads, Sequence) else [heads] * len(channels)
    sound = len(heads) == len(channels) and all(isinstance(h, int) and h > 0 for h in heads)
    if not sound or any(c % h for c, h in zip(channels, heads)):
        raise Problem(f"{found.path}: heads={heads} do not divide its channels {channels}; heads=… says otherwise")
    return heads


def levels(shapes: Mapping[str, Shape]) -> list[tuple[int, int, int]]:
    """(channels, residual blocks, attention layers behind each) a level, from the full size down."""
    return _levels_ldm(shapes) if LDM_FIRST in shapes else _levels_diffusers(shapes)


def network(shapes: Mapping[str, Shape], config: Mapping[str, Any], heads: Sequence[int], what: str) -> UNet:
    """The network that tensors of these shapes fit, of random numbers."""
    first, last = (LDM_FIRST, "out.2.weight") if LDM_FIRST in shapes else (DIFFUSERS_FIRST, "conv_out.weight")
    time = "time_embed.0.weight" if LDM_FIRST in shapes else "time_embedding.linear_1.weight"
    found = levels(shapes)
    channels, depth, attention = (list(column) for column in zip(*found))
    said = listed(config, "block_out_channels", what) or channels
    if said != channels:
        raise ValueError(f"config.json says block_out_channels {said}, the tensors {channels}")
    how = Conventions(
        groups=whole(config, "norm_num_groups", 32, what),
        eps=number(config, "norm_eps", 1e-5, what, least=0),
        sine_first=not config.get("flip_sin_to_cos", True),
        freq_shift=number(config, "freq_shift", 0, what),
    )
    return UNet(
        shapes[first][1],
        shapes[last][0],
        channels,
        depth,
        attention,
        [c // h for c, h in zip(channels, heads)],
        _words(shapes),
        emb_dim=shapes[time][0],
        block=ResBlock,
        attend=SpatialTransformer,
        down=CornerDownsample if config.get("downsample_padding") == 0 else Downsample,
        up=Upsample,
        time=TimeEmbedding,
        how=how,
    )


def _words(shapes: Mapping[str, Shape]) -> int:
    """The width of the words that are attended to."""
    return next(shape for key, shape in shapes.items() if key.endswith(WORDS))[1]


def _levels_ldm(shapes: Mapping[str, Shape]) -> list[tuple[int, int, int]]:
    made: list[list[tuple[int, int]]] = []
    level: list[tuple[int, int]] = []
    for k in range(1, counted(shapes, "input_blocks")):
        if f"input_blocks.{k}.0.op.weight" in shapes:
            made.append(level)
            level = []
        else:
            width = shapes[f"input_blocks.{k}.0.out_layers.3.weight"][0]
            level.append((width, counted(shapes, f"input_blocks.{k}.1.transformer_blocks")))
    return [(blocks[0][0], len(blocks), blocks[0][1]) for blocks in [*made, level]]


def _levels_diffusers(shapes: Mapping[str, Shape]) -> list[tuple[int, int, int]]:
    made = []
    for i in range(counted(shapes, "down_blocks")):
        level = f"down_blocks.{i}"
        depth = counted(shapes, f"{level}.resnets")
        layers = counted(shapes, f"{level}.attentions.0.transformer_blocks")
        made.append((shapes[f"{level}.resnets.0.conv2.weight"][0], depth, layers))
    return made
