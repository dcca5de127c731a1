"""DeepFloyd's IF: the stages in pixels (after Imagen, Saharia et al. 2022), in diffusers' folders or as published.

A stage is a pipeline's folder, its U-Net's, or a published file; the U-Net's weights have the head on T5's states
beside them. Stage I becomes a Ddpm, the stages that make a small picture larger an ImagenUpscaler, as scenes.imagen's
are. Told which stages come `then`, a Cascade of them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..nets.joint import CrossAttention2d, NormedJointAttention2d
from ..nets.layers import Conventions
from ..nets.unet import UNet
from ..systems.cascade import Cascade
from ..systems.ddpm import Ddpm
from ..systems.imagen import ImagenUpscaler
from ..text.deepfloyd import IfEncoder
from ..text.hugging import HuggingEncoder
from . import added, files, scheduler
from .ddpm import variance
from .guided import Said, attention, shapes
from .guided import network as guided_network
from .karlo import Row
from .load import Found, look
from .tables import empty, entry, fill, layer, understood
from .unets import known, ldm

OPTIONS = {
    "text": "the folder that holds T5 as text_encoder and tokenizer",
    "then": "of stage I: the stages that follow, folders or files; what else is told, but size, is of all",
    "head_dim": "of a published file: channels a head of the U-Net",
    "heads": "of a published file: attention heads of the U-Net, in the place of head_dim",
    "pool_heads": "of a published file: attention heads of the pooling of T5's states",
    "size": "of a published file: a side of the pictures, in pixels",
    "shrink": "of a published file: what sums in residual blocks are divided by (scale_skip_connection: 1/0.7071)",
}
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
# The head, where it lies beside the U-Net
HEAD = {
    "pool.position": "add_embedding.pool.positional_embedding",
    "pool.norm1": "add_embedding.norm1",
    **{f"pool.attn.to_{c}": f"add_embedding.pool.{c}_proj" for c in "qkv"},
    "pool.attn.to_out": "add_embedding.proj",
    "pool.norm2": "add_embedding.norm2",
    "proj": "encoder_hid_proj",
    "noised.mlp.0": "class_embedding.linear_1",
    "noised.mlp.2": "class_embedding.linear_2",
}
PUBLISHED_HEAD = {
    "pool.position": "encoder_pooling.1.positional_embedding",
    "pool.norm1": "encoder_pooling.0",
    **{f"pool.attn.to_{c}": f"encoder_pooling.1.{c}_proj" for c in "qkv"},
    "pool.attn.to_out": "encoder_pooling.2",
    "pool.norm2": "encoder_pooling.3",
    "proj": "encoder_proj",
    "noised.mlp.0": "aug_proj.0",
    "noised.mlp.2": "aug_proj.2",
}
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
    return (
        found.kind in PIPELINES
        or (added.is_added(found) and found.config.get("addition_embed_type") == "text")
        or found.has("encoder_pooling.1.positional_embedding", "input_blocks.0.0.weight")
    )


def read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> Ddpm | Cascade:
    """A Ddpm of stage I, an ImagenUpscaler of stages II and III; a Cascade where `then` says what follows."""
    with understood(str(found.path)):
        first = _read(found, dtype, told)
    if "then" not in told:
        return first
    then, told = told["then"], {name: value for name, value in told.items() if name not in ("then", "size")}
    stages: list[Ddpm] = [first]
    for path in then if isinstance(then, (list, tuple)) else [then]:
        following = look(path)
        if following is None or not claims(following):
            raise Problem(f"then={path}: a stage of DeepFloyd's IF was expected")
        following.told, following.assumed, following.notes = dict(told), found.assumed, found.notes
        with understood(str(following.path)):
            stages.append(_read(following, dtype, told, first.encoder.text))  # one T5 reads for all
    return Cascade(stages)


def _read(found: Found, dtype: torch.dtype, told: Mapping[str, Any], text: HuggingEncoder | None = None) -> Ddpm:
    whole = found.kind in PIPELINES
    text = text or _text(Path(told["text"]) if "text" in told else found.path if whole else None)
    if whole or added.is_added(found):
        net, encoder, side = _folder(found.part("unet") if whole else found, dtype, text)
    else:
        net, encoder, side = _published(found, dtype, text)
    upscales = net.arguments["in_channels"] == 6
    settings = found.path / "scheduler" / "scheduler_config.json"
    said = files.read_json(settings) if whole else {**ALONE, "sample_max_value": 1.0 if upscales else 1.5}
    plan = scheduler.plan(said, str(settings))
    found.notes += plan.notes
    learned = net.arguments["out_channels"] == 6
    denoiser = Denoiser(net, plan.schedule, plan.predicts, learned_variance=learned)
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
        how |= {"small": side // 4, "noised": noised, "corners": True}
        return ImagenUpscaler(denoiser, encoder, steps=50, guidance=4.0, **how)
    return Ddpm(denoiser, encoder, steps=100, guidance=7.0, offset=plan.offset, end=plan.end, **how)


Stage = tuple[UNet, IfEncoder, int]  # the network, its head, a side of the pictures


def _folder(found: Found, dtype: torch.dtype, text: HuggingEncoder | None) -> Stage:
    config, what = found.config, str(found.path)
    known({"addition_embed_type": "text", **config}, KNOWN, what)
    net = added.network(found, dtype, _firsts(HEAD))
    given, told = net.arguments["in_channels"], config.get("class_embed_type")
    if (told == "timestep") != (given == 6):
        raise Problem(f"{what}: class_embed_type={told!r} with {given} channels: an upscaler, of 6, is told its noise")
    heads = config.get("addition_embed_type_num_heads", 64)
    return net, head(found.weights(), HEAD, net, heads, text, what), config.get("sample_size") or 64


def _published(found: Found, dtype: torch.dtype, text: HuggingEncoder | None) -> Stage:
    """A U-Net of guided-diffusion's names whose levels attend to pixels and tokens, or to tokens alone."""
    tensors, shape, what = found.weights(), shapes(found.weights()), found.path.name
    arguments = guided_network(shape, Said(found))
    firsts = [sum(d + 1 for d in arguments["depth"][i + 1 :]) for i in range(len(arguments["depth"]))]  # on the way up
    places = [*(f"output_blocks.{k}.1" for k in firsts), "middle_block.1"]
    attends = [p for p in places if f"{p}.qkv.weight" in shape]
    alone = {p for p in attends if shape[f"{p}.qkv.weight"][0] == shape[f"{p}.proj_out.weight"][0]}
    upscales = arguments["in_channels"] == 6
    arguments |= {
        "attend": [CrossAttention2d if p in alone else NormedJointAttention2d for p in places],
        "context_dim": shape["middle_block.1.encoder_kv.weight"][1],
        "vector_dim": arguments["emb_dim"],
    }
    shrink = found.ask("shrink", 1 / 0.7071 if upscales else 1.0)
    net = empty(lambda: UNet(**arguments, how=Conventions(groups=32, act="gelu", shrink=shrink)))
    beside = _firsts(PUBLISHED_HEAD)
    fill(net, ldm(net, attention()), tensors, what=what, dtype=dtype, ignore=lambda key: key.startswith(beside))
    encoder = head(tensors, PUBLISHED_HEAD, net, found.told.get("pool_heads", 64), text, what)
    return net, encoder, Said(found)("size", 4 * 2 ** len(arguments["channels"]))


def head(
    tensors: Mapping[str, Tensor], names: dict[str, str], net: UNet, heads: int, text: HuggingEncoder | None, what: str
) -> IfEncoder:
    """What lies beside the U-Net: the pooling of T5's states, their projection, and the embedding of a level."""
    shape, made = shapes(tensors), net.arguments
    encoder = empty(
        lambda: IfEncoder(
            shape[f"{names['pool.norm1']}.weight"][0],
            made["emb_dim"],
            made["context_dim"] if f"{names['proj']}.weight" in shape else None,
            heads,
            LEVEL if made["in_channels"] == 6 else None,
            made["time_dim"] or made["channels"][0],
            Conventions(**made["how"].arguments),
            text,
        )
    )
    mine = encoder.state_dict()
    table = [entry("pool.position", names["pool.position"], Row())]
    table += [e for name, other in names.items() if f"{name}.weight" in mine for e in layer(name, other)]
    beside = _firsts(names)
    return fill(encoder, table, tensors, what=what, ignore=lambda key: not key.startswith(beside))


def _firsts(names: dict[str, str]) -> tuple[str, ...]:
    """How the keys of a head begin."""
    return tuple({other.split(".")[0] + "." for other in names.values()})


def _text(folder: Path | None) -> HuggingEncoder | None:
    """T5 in a pipeline's folder, read when the first prompt comes; None where none is there."""
    if folder is None or not (folder / "text_encoder").is_dir():
        return None
    return HuggingEncoder(str(folder / "text_encoder"), str(folder / "tokenizer"), LENGTH, fixed=True)
