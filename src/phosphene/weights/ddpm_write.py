"""A U-Net without text, and the system around it, written as diffusers' UNet2DModel and DDPMPipeline folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Problem
from ..nets.layers import (
    AddedTimeEmbedding,
    CornerDownsample,
    Downsample,
    PlainResDownsample,
    PlainResUpsample,
    ResBlock,
    ResDownsample,
    ResUpsample,
    ScaleShiftResBlock,
    SelfAttention2d,
    Upsample,
)
from ..nets.unet import UNet
from ..systems.ddpm import Ddpm
from ..text.encoders import ClassEncoder, NoEncoder
from . import files, scheduler
from .clip_configs import write_json
from .ddpm import LABEL
from .save import narrowed
from .tables import extract
from .unets import diffusers, separate

VERSION = "0.21.0"  # of diffusers, whose names these are
WEIGHTS = "diffusion_pytorch_model.safetensors"
# (block, way down, way up) → what UNet2DModel calls it
WAYS: dict[Any, dict[str, Any]] = {
    (ResBlock, Downsample, Upsample): {"downsample_padding": 1},
    (ResBlock, CornerDownsample, Upsample): {"downsample_padding": 0},
    (ResBlock, PlainResDownsample, PlainResUpsample): {"downsample_type": "resnet", "upsample_type": "resnet"},
    (ScaleShiftResBlock, Downsample, Upsample): {"downsample_padding": 1},
    (ScaleShiftResBlock, CornerDownsample, Upsample): {"downsample_padding": 0},
    (ScaleShiftResBlock, ResDownsample, ResUpsample): {"downsample_type": "resnet", "upsample_type": "resnet"},
}


def fits(thing: Any) -> bool:
    """Whether this is the writer for it: a U-Net that attends to no tokens, or a Ddpm of one."""
    net = thing.denoiser.net if type(thing) is Ddpm else thing
    return isinstance(net, UNet) and net.arguments["context_dim"] is None


def write(thing: Ddpm | UNet, folder: Path, dtype: torch.dtype | None = None) -> list[str]:
    """A Ddpm as a pipeline's folder, a UNet as a component's. Returns what got lost, in lines.

    Raises Problem for what diffusers' classes cannot be.
    """
    if isinstance(thing, UNet):
        _unet(folder, thing, 32, None, dtype)
        return []
    notes: list[str] = []
    if not isinstance(thing.encoder, ClassEncoder | NoEncoder):
        raise Problem(f"diffusers' UNet2DModel is told classes, and not what a {type(thing.encoder).__name__} says")
    classes = thing.encoder if isinstance(thing.encoder, ClassEncoder) else None
    if classes is not None:
        notes.append("how classes are told: diffusers' pipelines of this U-Net tell it none, its forward takes them")
        notes += ["the names of the classes"] if classes.names else []
    _unet(folder / "unet", thing.denoiser.net, thing.size, classes, dtype)
    config = _scheduler(thing, notes)
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    pipeline = "DDPMPipeline" if config["_class_name"] == "DDPMScheduler" else "DDIMPipeline"
    parts = {"scheduler": ["diffusers", config["_class_name"]], "unet": ["diffusers", "UNet2DModel"]}
    write_json(folder / "model_index.json", {"_class_name": pipeline, "_diffusers_version": VERSION, **parts})
    return notes


def config_of(net: UNet) -> dict[str, Any]:
    """unet/config.json. Raises Problem for a network that a UNet2DModel cannot be."""
    made, cannot = net.arguments, "a UNet2DModel cannot have"
    ways = made["block"], made["down"], made["up"]
    if ways not in WAYS:
        raise Problem(f"{cannot} {', '.join(kind.__name__ for kind in ways)} together")
    attends = [type(m) for m in net.modules() if hasattr(m, "attn") and hasattr(m, "norm")]
    if set(attends) - {SelfAttention2d}:
        raise Problem(f"{cannot} {attends[0].__name__}, SelfAttention2d alone")
    channels, n = list(made["channels"]), len(made["channels"])
    depth, attention, dims = _each(made["depth"], n), _each(made["attention"] or 0, n), _each(made["head_dim"], n)
    attention = [bool(layers) for layers in attention]
    if len(set(depth)) > 1:
        raise Problem(f"{cannot} depth={depth}, the same on every level")
    how = net.time.how
    norms = {(m.num_groups, m.eps) for m in net.modules() if isinstance(m, nn.GroupNorm)}
    if len(norms) > 1 or how.arguments["act"] != "silu" or how.shrink != 1:
        raise Problem(f"{cannot} norms of different groups ({sorted(norms)}), another activation than silu, or shrink")
    if made["time_dim"] not in (None, channels[0]):
        raise Problem(f"{cannot} time_dim={made['time_dim']}, only {channels[0]}, its first channels")
    groups, eps = norms.pop()
    kinds = ["Attn" if attend else "Resnet" if "Res" in made["down"].__name__ else "" for attend in attention]
    ends = {"Resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")}
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        **WAYS[ways],
        "act_fn": "silu",
        "attention_head_dim": _head_dim(channels, attention, dims, cannot),
        "attn_norm_num_groups": groups,
        "block_out_channels": channels,
        "down_block_types": [ends.get(kind, (f"{kind}DownBlock2D",))[0] for kind in kinds],
        "up_block_types": [ends.get(kind, (f"{kind}UpBlock2D",))[-1] for kind in reversed(kinds)],
        "flip_sin_to_cos": not how.sine_first,
        "freq_shift": how.freq_shift,
        "in_channels": made["in_channels"],
        "out_channels": made["out_channels"],
        "layers_per_block": depth[0],
        "norm_eps": eps,
        "norm_num_groups": groups,
        "resnet_time_scale_shift": "scale_shift" if made["block"] is ScaleShiftResBlock else "default",
        "time_embedding_dim": made["emb_dim"],
    }


def _head_dim(channels: list[int], attention: list[bool], dims: list, cannot: str) -> int | None:
    """Channels a head, of all that attend and of the middle; None is one head of all channels."""
    used = {(c, d) for c, d, attends in zip(channels, dims, attention) if attends} | {(channels[-1], dims[-1])}
    if all(d is None or c == d for c, d in used):
        return None
    if len({d for _, d in used}) > 1:
        raise Problem(f"{cannot} head_dim={dims}, the same wherever it attends")
    return used.pop()[1]


def _unet(folder: Path, net: UNet, size: int, classes: ClassEncoder | None, dtype: torch.dtype | None) -> None:
    config, tensors = config_of(net), extract(net, diffusers(net, separate()))
    if net.time.vector is not None:
        if classes is None:
            raise Problem(
                "a UNet2DModel is told classes by an embedding of its own: write the system and not the network"
            )
        tensors[LABEL] = _label(net, classes)
        config["num_class_embeds"] = len(tensors[LABEL])
    write_json(folder / "config.json", config | {"sample_size": size})
    files.write_tensors(folder / WEIGHTS, narrowed(tensors, dtype), {"format": "pt"})


@torch.no_grad()
def _label(net: UNet, classes: ClassEncoder) -> Tensor:
    """What each class adds to the time's embedding; a layer between them is multiplied in."""
    rows = classes.embedding.weight
    return rows if isinstance(net.time, AddedTimeEmbedding) else net.time.vector(rows)


def _scheduler(system: Ddpm, notes: list[str]) -> dict[str, Any]:
    denoiser, schedule = system.denoiser, system.denoiser.schedule
    plan = scheduler.Plan(
        schedule,
        denoiser.predicts,
        system.sampler,
        system.spacing or schedule.spacing,
        system.steps,
        system.offset,
        system.end,
    )
    config = scheduler.written(plan, "this system", notes)
    if config["_class_name"] in ("DDPMScheduler", "DDIMScheduler"):
        config |= {"clip_sample": system.bound is not None, "clip_sample_range": system.bound or 1.0}
        if system.threshold is not None:
            quantile, most = system.threshold
            config |= {"thresholding": True, "dynamic_thresholding_ratio": quantile, "sample_max_value": most}
    if config["_class_name"] == "DDPMScheduler":
        small = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
        config["variance_type"] = small[system.options.get("variance", "small")]
    return config


def _each(value: Any, n: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * n
