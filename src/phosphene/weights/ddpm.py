"""diffusers' UNet2DModel: DDPM (Ho et al. 2020) and other U-Nets without text, in a pipeline's folder or alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..diffusion.denoiser import Denoiser
from ..errors import Problem, unknown
from ..nets.layers import (
    AddedTimeEmbedding,
    Conventions,
    CornerDownsample,
    Downsample,
    PlainResDownsample,
    PlainResUpsample,
    ResBlock,
    ResDownsample,
    ResUpsample,
    ScaleShiftResBlock,
    SelfAttention2d,
    TimeEmbedding,
    Upsample,
)
from ..nets.unet import UNet
from ..systems.ddpm import Ddpm
from ..text.encoders import ClassEncoder
from . import files, scheduler
from .load import Found
from .tables import empty, entry, fill, understood
from .unets import diffusers, known, separate

OPTIONS: dict[str, str] = {}
PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
LABEL = "class_embedding.weight"

# What changes the computation: the values that are known here, the class's default first
KNOWN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "add_attention": (True, False),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_padding": (1, 0),
    "downsample_type": ("conv", "resnet"),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv", "resnet"),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
# variance_type of a DDPMScheduler → the option of our sampler
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}


def claims(found: Found) -> bool:
    return found.kind in (*PIPELINES, "UNet2DModel")


def read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> Ddpm | UNet:
    """A Ddpm of a pipeline's folder, which says how to sample; a UNet of the network's."""
    with understood(str(found.path)):
        return _read(found, dtype)


def _read(found: Found, dtype: torch.dtype) -> Ddpm | UNet:
    if found.kind == "UNet2DModel":
        return network(found, dtype)
    inside, settings = found.part("unet"), found.path / "scheduler" / "scheduler_config.json"
    said = files.read_json(settings)
    plan = scheduler.plan(said, str(settings))
    found.notes += plan.notes
    net = network(inside, dtype)
    learned = net.arguments["out_channels"] == 2 * net.arguments["in_channels"]
    return Ddpm(
        Denoiser(net, plan.schedule, plan.predicts, learned_variance=learned),
        classes(inside),
        size=inside.config.get("sample_size") or 32,
        channels=net.arguments["in_channels"],
        sampler=plan.sampler,
        spacing=plan.spacing,
        steps=1000 if plan.sampler == "ddpm" else plan.steps,  # the pipelines' defaults
        offset=plan.offset,
        end=plan.end,
        options=variance(said, str(settings)) if plan.sampler == "ddpm" else None,
        threshold=plan.threshold,
        bound=plan.clip,
    )


def variance(config: Mapping[str, Any], what: str) -> dict[str, str]:
    """The sampler's option for a DDPMScheduler's configuration. Raises Problem for a variance_type not known here."""
    kind = config.get("variance_type", "fixed_small")
    if kind not in VARIANCES:
        raise unknown(f"variance_type in {what}", kind, VARIANCES)
    return {"variance": VARIANCES[kind]}


def network(found: Found, dtype: torch.dtype) -> UNet:
    """The U-Net of a folder, its class embedding left out (`classes`). Raises Problem for what is not known here."""
    what, tensors = str(found.path), found.weights()
    arguments = structure(found.config, what)
    if LABEL in tensors:
        arguments |= {"vector_dim": tensors.shapes[LABEL][1], "time": AddedTimeEmbedding}
    net = empty(lambda: UNet(**arguments))
    old = any(key.endswith(".proj_attn.weight") for key in tensors)
    return fill(net, diffusers(net, separate(old)), tensors, what=what, dtype=dtype, ignore=lambda key: key == LABEL)


def classes(found: Found) -> ClassEncoder | None:
    """What turns classes into vectors, where the network is told classes; no null prompt among them."""
    tensors = found.weights()
    if LABEL not in tensors:
        return None
    encoder = empty(lambda: ClassEncoder(*tensors.shapes[LABEL], null=False))
    return fill(encoder, [entry("embedding.weight", LABEL)], {LABEL: tensors[LABEL]}, what=str(found.path))


def structure(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The arguments of our UNet. Raises Problem for settings that are not known here."""
    known(config, KNOWN, what)
    channels = config.get("block_out_channels", [224, 448, 672, 896])
    downs = config.get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3])
    ups = config.get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"])
    attention = [int(kind.startswith("Attn")) for kind in downs]
    if attention != [int(kind.startswith("Attn")) for kind in reversed(ups)] or len(channels) != len(downs):
        raise Problem(f"{what}: its down_block_types and up_block_types are not mirrored: {downs}, {ups}")
    groups, scaled = config.get("norm_num_groups", 32), config.get("resnet_time_scale_shift") == "scale_shift"
    middle = config.get("attn_norm_num_groups") or (None if scaled else groups)
    attends = config.get("add_attention", True)
    if attends and middle != groups:
        raise Problem(f"{what}: attn_norm_num_groups={middle!r} with norm_num_groups={groups} is not known here")
    corner = config.get("downsample_padding", 1) == 0
    small = _way(downs[:-1], config.get("downsample_type", "conv"), "downsample_type", what)
    large = _way(ups[:-1], config.get("upsample_type", "conv"), "upsample_type", what)
    res_down, res_up = (ResDownsample, ResUpsample) if scaled else (PlainResDownsample, PlainResUpsample)
    return {
        "in_channels": config.get("in_channels", 3),
        "out_channels": config.get("out_channels", 3),
        "channels": channels,
        "depth": config.get("layers_per_block", 2),
        "attention": attention,
        "head_dim": config.get("attention_head_dim", 8),  # null is one head of all channels: DDPM's own
        "attend": SelfAttention2d if attends else [*[SelfAttention2d] * len(channels), None],
        "emb_dim": config.get("time_embedding_dim"),
        "block": ScaleShiftResBlock if scaled else ResBlock,
        "down": res_down if small == "resnet" else CornerDownsample if corner else Downsample,
        "up": res_up if large == "resnet" else Upsample,
        "time": TimeEmbedding,
        "how": Conventions(
            groups=groups,
            eps=config.get("norm_eps", 1e-5),
            sine_first=not config.get("flip_sin_to_cos", True),
            freq_shift=config.get("freq_shift", 0),
        ),
    }


def _way(kinds: list[str], setting: str, name: str, what: str) -> str:
    """The one way between levels that these blocks have: "conv" or "resnet"; the setting is of those that attend."""
    ways = {setting if kind.startswith("Attn") else "resnet" if kind.startswith("Resnet") else "conv" for kind in kinds}
    if len(ways) > 1:
        raise Problem(
            f"{what}: blocks that change the size by convolutions and by residual blocks ({name}={setting!r})"
        )
    return ways.pop() if ways else "conv"
