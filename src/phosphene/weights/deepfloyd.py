"""DeepFloyd's IF: the stages in pixels, in diffusers' folders (Saharia et al. 2022, Imagen, is what they follow).

A stage is a pipeline's folder or its U-Net's, which also holds the head on T5's states. Stage I becomes a Ddpm, the
stages that make a small picture larger an Upscaler.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..nets.layers import Conventions
from ..nets.unet import UNet
from ..systems.ddpm import Ddpm
from ..systems.upscale import Upscaler
from ..text.deepfloyd import IfEncoder
from ..text.hugging import HuggingEncoder
from . import added, files, scheduler
from .ddpm import variance
from .karlo import Row
from .load import Found
from .tables import Entry, empty, entry, fill, layer, understood
from .unets import known

OPTIONS = {"text": "the folder that holds T5 as text_encoder and tokenizer"}
PIPELINES = (
    "IFPipeline",
    "IFImg2ImgPipeline",
    "IFInpaintingPipeline",
    "IFSuperResolutionPipeline",
    "IFImg2ImgSuperResolutionPipeline",
    "IFInpaintingSuperResolutionPipeline",
)
KNOWN: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": ("text",),
    "class_embed_type": (None, "timestep"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "num_class_embeds": (None,),
}
LENGTH = 77  # of prompts: padded to it, and the network sees the padding
LEVEL = 250  # of the noise on an upscaler's small picture, of 1000 steps: the pipelines' default
BESIDE = ("encoder_hid_proj.", "add_embedding.", "class_embedding.")
# Of IF's own schedulers, where a U-Net lies alone
ALONE = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "variance_type": "learned_range",
}


def claims(found: Found) -> bool:
    return found.kind in PIPELINES or (added.is_added(found) and found.config.get("addition_embed_type") == "text")


def read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> Ddpm:
    """A Ddpm of stage I, an Upscaler of stages II and III."""
    with understood(str(found.path)):
        return _read(found, dtype, told)


def _read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> Ddpm:
    whole = found.kind in PIPELINES
    inside = found.part("unet") if whole else found
    known({"addition_embed_type": "text", **inside.config}, KNOWN, str(inside.path))
    net = added.network(inside, dtype, BESIDE)
    upscales = net.arguments["in_channels"] == 6
    text = _text(Path(told["text"]) if "text" in told else found.path if whole else None)
    encoder = head(inside, net, LEVEL if upscales else None, text)
    settings = found.path / "scheduler" / "scheduler_config.json"
    said = files.read_json(settings) if whole else {**ALONE, "sample_max_value": 1.0 if upscales else 1.5}
    plan = scheduler.plan(said, str(settings))
    found.notes += plan.notes
    learned = net.arguments["out_channels"] == 6
    denoiser = Denoiser(net, plan.schedule, plan.predicts, learned_variance=learned)
    side = inside.config.get("sample_size") or 64
    how: dict[str, Any] = {
        "size": side,
        "sampler": plan.sampler,
        "spacing": plan.spacing,
        "options": variance(said, str(settings)) if plan.sampler == "ddpm" else None,
        "threshold": plan.threshold,
        "bound": plan.clip,
    }
    if upscales:
        noised = (LEVEL + 1) / plan.schedule.T
        return Upscaler(denoiser, encoder, small=side // 4, steps=50, guidance=4.0, noised=noised, corners=True, **how)
    return Ddpm(denoiser, encoder, steps=100, guidance=7.0, offset=plan.offset, end=plan.end, **how)


def head(found: Found, net: UNet, level: int | None, text: HuggingEncoder | None = None) -> IfEncoder:
    """What lies beside the U-Net: the pooling of T5's states, their projection, and the embedding of a level."""
    config, tensors, what = found.config, found.weights(), str(found.path)
    projected = config.get("encoder_hid_dim") is not None
    if (config.get("class_embed_type") == "timestep") != (level is not None):
        raise Problem(f"{what}: class_embed_type={config.get('class_embed_type')!r} with {net.arguments['in_channels']}"
                      " channels: an upscaler, of 6, is told the level of the noise, and no other")  # fmt: skip
    made = empty(
        lambda: IfEncoder(
            config["encoder_hid_dim"] if projected else net.arguments["context_dim"],
            net.arguments["emb_dim"],
            net.arguments["context_dim"] if projected else None,
            config.get("addition_embed_type_num_heads", 64),
            level,
            net.arguments["channels"][0],
            Conventions(**net.arguments["how"].arguments),
            text,
        )
    )
    table = _entries(projected, level is not None)
    return fill(made, table, tensors, what=what, ignore=lambda key: not key.startswith(BESIDE))


def _entries(projected: bool, noised: bool) -> list[Entry]:
    made = [entry("pool.position", "add_embedding.pool.positional_embedding", Row())]
    names = {"norm1": "norm1", "norm2": "norm2", "attn.to_out": "proj"}
    names |= {f"attn.to_{c}": f"pool.{c}_proj" for c in "qkv"}
    made += [e for name, other in names.items() for e in layer(f"pool.{name}", f"add_embedding.{other}")]
    if projected:
        made += layer("proj", "encoder_hid_proj")
    if noised:
        made += layer("noised.mlp.0", "class_embedding.linear_1") + layer("noised.mlp.2", "class_embedding.linear_2")
    return made


def _text(folder: Path | None) -> HuggingEncoder | None:
    """T5 in a pipeline's folder, read when the first prompt comes; None where none is there."""
    if folder is None or not (folder / "text_encoder").is_dir():
        return None
    return HuggingEncoder(str(folder / "text_encoder"), str(folder / "tokenizer"), LENGTH, fixed=True)
