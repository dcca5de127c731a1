"""diffusers' U-Nets whose attention has the text's keys and values added: unCLIP's decoder and DeepFloyd's IF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import Problem
from ..nets.joint import CrossAttention2d, JointAttention2d, NormedJointAttention2d
from ..nets.layers import AddedTimeEmbedding, Conventions, ResDownsample, ResUpsample, ScaleShiftResBlock
from ..nets.unet import UNet
from .load import Found
from .tables import empty, fill
from .unets import diffusers, known, separate

# What changes the computation: the values that are known here. What is beside the U-Net (class_embed_type,
# addition_embed_type, encoder_hid_dim_type) is the families' own.
KNOWN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish", "gelu"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None, "group_norm"),
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn",),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": ("scale_shift",),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "upcast_attention": (False, True, None),
}


def is_added(found: Found) -> bool:
    """A folder with such a U-Net's configuration."""
    blocks = found.config.get("down_block_types")
    listed = found.kind == "UNet2DConditionModel" and isinstance(blocks, list)
    return listed and any(str(kind).startswith("Simple") for kind in blocks)


def network(found: Found, dtype: torch.dtype, beside: Sequence[str] = ()) -> UNet:
    """The U-Net of a folder, without what begins as one of `beside`. Raises Problem for what is not known here."""
    what = str(found.path)
    arguments = structure(found.config, what)
    net = empty(lambda: UNet(**arguments))
    table = diffusers(net, separate())
    return fill(net, table, found.weights(), what=what, dtype=dtype, ignore=lambda key: key.startswith(tuple(beside)))


def structure(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The arguments of our UNet. Raises Problem for settings that are not known here."""
    known({**{key: values[0] for key, values in KNOWN.items()}, **config}, KNOWN, what)
    channels, downs = config["block_out_channels"], config["down_block_types"]
    attention = [int(kind.startswith("Simple")) for kind in downs]
    if attention != [int(kind.startswith("Simple")) for kind in reversed(config["up_block_types"])]:
        raise Problem(f"{what}: its down_block_types and up_block_types are not mirrored")
    act, after = config.get("act_fn", "silu"), config.get("time_embedding_act_fn")
    # the time's activation is in each block, or once before all of them: the same
    if config.get("resnet_skip_time_act", False) != (after is not None) or after not in (None, act):
        raise Problem(f"{what}: time_embedding_act_fn={after!r} with resnet_skip_time_act=… is not known here")
    shrink = config.get("resnet_out_scale_factor", 1.0)
    if config.get("mid_block_scale_factor", 1) != shrink:
        raise Problem(f"{what}: mid_block_scale_factor is not resnet_out_scale_factor={shrink}, as was expected")
    emb_dim = config.get("time_embedding_dim") or 4 * channels[0]
    return {
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "channels": channels,
        "depth": config.get("layers_per_block", 2),
        "attention": attention,
        "head_dim": config.get("attention_head_dim", 8),
        "context_dim": config.get("cross_attention_dim", 1280),
        "vector_dim": emb_dim,
        "emb_dim": emb_dim,
        "block": ScaleShiftResBlock,
        "attend": _attend(config, len(channels), what),
        "down": ResDownsample,
        "up": ResUpsample,
        "time": AddedTimeEmbedding,
        "how": Conventions(
            groups=config.get("norm_num_groups", 32),
            eps=config.get("norm_eps", 1e-5),
            act="gelu" if act == "gelu" else "silu",
            sine_first=not config.get("flip_sin_to_cos", True),
            freq_shift=config.get("freq_shift", 0),
            shrink=shrink,
        ),
    }


def _attend(config: Mapping[str, Any], levels: int, what: str) -> list[type]:
    """The attention of every level and of the middle: to tokens and pixels, or to tokens alone."""
    only, middle = config.get("only_cross_attention", False), config.get("mid_block_only_cross_attention")
    if isinstance(only, bool):
        middle, only = only if middle is None else middle, [only] * levels
    normed = config.get("cross_attention_norm") == "group_norm"
    alone = [*only, bool(middle)]
    if any(alone) and not normed:
        raise Problem(f"{what}: only_cross_attention without cross_attention_norm='group_norm' is not known here")
    both = NormedJointAttention2d if normed else JointAttention2d
    return [CrossAttention2d if one else both for one in alone]
