"""Stable Diffusion written: as diffusers' folder, and as the original single file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..nets.autoencoder import Autoencoder
from ..nets.layers import CornerDownsample, Downsample, ResBlock, SpatialTransformer, TimeEmbedding, Upsample
from ..nets.quantize import VqAutoencoder
from ..nets.tiny import TinyAutoencoder
from ..nets.unet import UNet
from ..systems.latent import Latent
from ..text.clip import ClipTextEncoder
from . import ddpm_write, files, scheduler, stable_unet, vae
from .clip_configs import hugging_face_text, write_json, write_tokenizer
from .clip_tables import text_entries_hf, text_entries_open_clip
from .save import narrowed
from .stable import HUGGING_FACE, OPEN_CLIP, UNET, VAE
from .tables import extract

VERSION = "0.21.0"  # of diffusers, whose names these are
WEIGHTS = "diffusion_pytorch_model.safetensors"


# diffusers' folder --------------------------------------------------------------------------------------------------


def diffusers(thing: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> list[str]:
    """A Latent or a Ddpm as a pipeline's folder; a UNet or an autoencoder as a component's.

    Returns what got lost, in lines.

    Raises Problem for what diffusers' classes cannot be.
    """
    if ddpm_write.fits(thing):
        return ddpm_write.write(thing, folder, dtype)
    if isinstance(thing, UNet):
        _unet(folder, thing, dtype)
        return []
    if isinstance(thing, (Autoencoder, VqAutoencoder, TinyAutoencoder)):
        _component(folder, *_autoencoder(thing), dtype)
        return []
    system, notes = _stable(thing, "a diffusers pipeline"), []
    net, encoder = system.denoiser.net, system.encoder
    more = {"sample_size": system.size // system.factor, "use_linear_projection": _is_version_2(encoder)}
    _unet(folder / "unet", net, dtype, more)
    if isinstance(system.autoencoder, VqAutoencoder):
        raise Problem("a diffusers pipeline's autoencoder has no codebook")
    config, tensors = _autoencoder(system.autoencoder)
    _component(folder / "vae", config, tensors, dtype)
    blocks = len(encoder.transformer.blocks) - encoder.skip
    if encoder.skip:
        notes.append(f"the text encoder's last {encoder.skip} of {blocks + encoder.skip} blocks, which are not used")
    text = hugging_face_text(encoder) | {"architectures": ["CLIPTextModel"], "num_hidden_layers": blocks}
    table = extract(encoder.transformer, text_entries_hf(blocks))
    # transformers 5 leaves the prefix out and reads both; 4 wants it, and without it keeps random weights
    _component(
        folder / "text_encoder", text, {f"text_model.{k}": t for k, t in table.items()}, dtype, "model.safetensors"
    )
    write_tokenizer(encoder.tokenizer, folder / "tokenizer", encoder.pad, encoder.transformer.length)
    write_json(folder / "scheduler" / "scheduler_config.json", _scheduler(system, notes))
    write_json(folder / "model_index.json", _index(system))
    return notes + _unsaid(encoder)


def unet_config(net: UNet) -> dict[str, Any]:
    """unet/config.json. Raises Problem for a network that a UNet2DConditionModel cannot be."""
    made, how = net.arguments, net.arguments["how"]
    kinds: dict[str, tuple[Any, ...]] = {
        "block": (ResBlock,),
        "attend": (SpatialTransformer,),
        "down": (Downsample, CornerDownsample),
    }
    kinds |= {"up": (Upsample,), "time": (TimeEmbedding,), "vector_dim": (None,)}
    for name, known in kinds.items():
        if made[name] not in known:
            raise Problem(f"a UNet2DConditionModel cannot have {name}={getattr(made[name], '__name__', made[name])}")
    if how is None or how.groups is None:
        raise Problem("a UNet2DConditionModel has the same number of groups in every norm, and this network has not")
    channels = list(made["channels"])
    heads = [c // d if d else 1 for c, d in zip(channels, _each(made["head_dim"], channels))]
    layers = _each(made["attention"], channels)
    used = sorted({n for n in layers if n}) or [1]
    if len(used) > 1 or max(1, layers[-1]) != used[0]:
        raise Problem(f"attention={layers}: written are U-Nets with the same number of layers wherever they attend")
    depth = _each(made["depth"], channels)
    kind = [("CrossAttn" if n else "") for n in layers]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": made["context_dim"],
        "down_block_types": [f"{k}DownBlock2D" for k in kind],
        "downsample_padding": 0 if made["down"] is CornerDownsample else 1,
        "flip_sin_to_cos": not how.sine_first,
        "freq_shift": _whole(how.freq_shift),
        "in_channels": made["in_channels"],
        "layers_per_block": depth[0] if len(set(depth)) == 1 else depth,
        "mid_block_scale_factor": 1,
        "norm_eps": how.eps,
        "norm_num_groups": how.groups,
        "out_channels": made["out_channels"],
        "sample_size": 64,
        "transformer_layers_per_block": used[0],
        "up_block_types": [f"{k}UpBlock2D" for k in reversed(kind)],
        "use_linear_projection": len(set(heads)) > 1,  # version 2's habits go together
    }


def _unet(folder: Path, net: UNet, dtype: torch.dtype | None, more: Mapping[str, Any] = {}) -> None:
    config = unet_config(net) | more
    table = stable_unet.entries(net, False, 0 if config["use_linear_projection"] else 2)
    _component(folder, config, extract(net, table), dtype)


def _autoencoder(net: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config.json, tensors) of an AutoencoderKL, VQModel or AutoencoderTiny."""
    if isinstance(net, TinyAutoencoder):
        return _tiny(net)
    made = net.encoder.arguments
    how, channels = made["how"], list(made["channels"])
    fits = made["patch"] == 1 and made["attend"] is not None and how is not None and how.eps == 1e-6
    fits = fits and net.decoder.arguments["depth"] == made["depth"] + 1 and getattr(net, "start", None) is None
    if not fits:
        raise Problem(
            "an AutoencoderKL has no patches, no linear start, and attention in its middle; this one is other"
        )
    kinds = ["Attn" if attends else "" for attends in made["attention"] or [0] * len(channels)]
    config = {
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "in_channels": made["in_channels"],
        "latent_channels": net.decoder.arguments["in_channels"],
        "layers_per_block": made["depth"],
        "norm_num_groups": how.groups,
        "out_channels": net.decoder.arguments["out_channels"],
        "sample_size": 512,
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
    }
    if isinstance(net, VqAutoencoder):
        entries, width = net.codebook.shape
        config |= {"num_vq_embeddings": entries, "vq_embed_dim": width, "scaling_factor": net.scale}
        return {"_class_name": "VQModel", **config}, extract(net, vae.diffusers(net))
    scale, shift = (_one(t, name) for t, name in ((net.scale, "scale"), (net.shift, "shift")))
    mixed = not isinstance(net.mix, nn.Identity)
    config |= {"scaling_factor": scale, "use_quant_conv": mixed, "use_post_quant_conv": mixed}
    config |= {"shift_factor": shift} if shift else {}
    return {"_class_name": "AutoencoderKL", **config}, extract(net, vae.diffusers(net))


def _tiny(net: TinyAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    made = net.arguments
    width, levels = [made["width"]], len(made["encoder_blocks"])
    config = {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": VERSION,
        "act_fn": "relu",
        "encoder_block_out_channels": width * levels,
        "decoder_block_out_channels": width * levels,
        "in_channels": made["in_channels"],
        "latent_channels": made["channels"],
        "num_encoder_blocks": list(made["encoder_blocks"]),
        "num_decoder_blocks": list(made["decoder_blocks"]),
        "out_channels": made["in_channels"],
        "scaling_factor": made["scale"],
        "upsampling_scaling_factor": 2,
    }
    parts = {key.partition(".") for key in net.state_dict()}
    named = {half + "." + key: f"{half}.layers.{key}" for half, _, key in parts}
    return config, {named[key]: t for key, t in net.state_dict().items()}


def _scheduler(system: Latent, notes: list[str]) -> dict[str, Any]:
    denoiser: Denoiser = system.denoiser
    plan = scheduler.Plan(
        denoiser.schedule, denoiser.predicts, system.sampler, system.spacing or denoiser.schedule.spacing,
        system.steps, system.offset, system.end,
    )  # fmt: skip
    return scheduler.written(plan, "scheduler_config.json", notes) | {"_diffusers_version": VERSION}


def _index(system: Latent) -> dict[str, Any]:
    inpaints = system.denoiser.net.arguments["in_channels"] > system.channels
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline",
        "_diffusers_version": VERSION,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler.class_of(system.sampler)],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny" if isinstance(system.autoencoder, TinyAutoencoder) else "AutoencoderKL"],
    }


def _component(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype | None, name: str = WEIGHTS
) -> None:
    write_json(folder / "config.json", config)
    files.write_tensors(folder / name, narrowed(tensors, dtype), {"format": "pt"})


# The single file ----------------------------------------------------------------------------------------------------


def single_file(thing: nn.Module, path: Path, dtype: torch.dtype | None = None) -> list[str]:
    """A Latent, a UNet or an AutoencoderKL in one file with ldm's names, and a yaml beside it with what these omit."""
    if isinstance(thing, UNet):
        _usual(thing)
        tensors = _prefixed(UNET, extract(thing, stable_unet.entries(thing, True, 2)))
        files.write_tensors(path, narrowed(tensors, dtype))
        return ["the number of attention heads, which is told when the file is read (heads=…)"]
    if isinstance(thing, (Autoencoder, VqAutoencoder)):
        _usual(thing)
        files.write_tensors(path, narrowed(extract(thing, vae.ldm(thing)), dtype))
        return ["the factor of the latents, which is told when the file is read (scale=…)"]
    system = _stable(thing, "a single file")
    if not isinstance(system.autoencoder, Autoencoder):
        raise Problem(f"a single file of Stable Diffusion cannot hold a {type(system.autoencoder).__name__}")
    for net in (system.denoiser.net, system.autoencoder):
        _usual(net)
    two = _is_version_2(system.encoder)
    tensors = _prefixed(
        UNET, extract(system.denoiser.net, stable_unet.entries(system.denoiser.net, True, 0 if two else 2))
    )
    tensors |= _prefixed(VAE, extract(system.autoencoder, vae.ldm(system.autoencoder)))
    text, notes = _open_clip(system.encoder) if two else _hugging_face(system.encoder)
    config = _yaml(system, two)
    files.write_tensors(path, narrowed(tensors | text, dtype))
    _write_yaml(path.with_suffix(".yaml"), config)
    notes.append(f"heads, prediction and schedule, which are in {path.with_suffix('.yaml').name} beside it")
    if system.encoder.tokenizer.arguments["table"] != "openai":
        notes.append("the tokenizer: give its folder when the file is read (tokenizer=…)")
    return notes + _unsaid(system.encoder)


def _usual(net: nn.Module) -> None:
    """Problem for a network whose settings a single file, which has no place for them, would not give back."""
    config = unet_config(net) if isinstance(net, UNet) else _autoencoder(net)[0]
    usual = {"norm_num_groups": 32, "norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0}
    for name, value in usual.items():
        if config.get(name, value) != value:
            raise Problem(f"a single file's networks have {name}={value}, and this one {config[name]}: write diffusers")


def _hugging_face(encoder: ClipTextEncoder) -> tuple[dict[str, Tensor], list[str]]:
    if encoder.skip:
        raise Problem("a single file of version 1 has no place for a text encoder whose last blocks are left out")
    made = extract(encoder.transformer, text_entries_hf(len(encoder.transformer.blocks)))
    places = {"embeddings.position_ids": torch.arange(encoder.transformer.length)[None]}
    return _prefixed(f"{HUGGING_FACE}text_model.", made | places), []


def _open_clip(encoder: ClipTextEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """Version 2 runs all blocks but one: where the last is not there any more, a copy takes its place."""
    blocks, width = len(encoder.transformer.blocks), encoder.width
    made = extract(encoder.transformer, text_entries_open_clip(blocks))
    notes = []
    if encoder.skip == 0:
        last, new = f"transformer.resblocks.{blocks - 1}.", f"transformer.resblocks.{blocks}."
        made |= {new + key.removeprefix(last): t for key, t in made.items() if key.startswith(last)}
        notes.append(f"the text encoder's unused block {blocks + 1} is a copy of the one before it")
    elif encoder.skip > 1:
        raise Problem(f"a single file leaves out one block of the text encoder, not {encoder.skip}")
    made |= {"text_projection": torch.eye(width), "logit_scale": torch.tensor(math.log(1 / 0.07))}
    return _prefixed(OPEN_CLIP, made), [*notes, "open_clip's text_projection and logit_scale, unused, are made up"]


def _yaml(system: Latent, two: bool) -> dict[str, Any]:
    """The yaml of ldm, as far as somebody reads it."""
    schedule, predicts = system.denoiser.schedule, system.denoiser.predicts
    said = schedule.arguments
    if type(schedule).__name__ != "ScaledLinear" or said["zero_snr"] or predicts not in ("eps", "v", "x0"):
        raise Problem(
            f"a single file says nothing of a {type(schedule).__name__} schedule with zero_snr={said.get('zero_snr')} "
            f"that predicts {predicts}: write it as diffusers"
        )
    net = unet_config(system.denoiser.net)
    heads = net["attention_head_dim"]
    channels = net["block_out_channels"]
    unet = {
        "in_channels": net["in_channels"],
        "out_channels": net["out_channels"],
        "model_channels": channels[0],
        "attention_resolutions": [2**i for i, k in enumerate(net["down_block_types"]) if k.startswith("CrossAttn")],
        "num_res_blocks": net["layers_per_block"],
        "channel_mult": [c // channels[0] for c in channels],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": two,
        "transformer_depth": net["transformer_layers_per_block"],
        "context_dim": net["cross_attention_dim"],
        "use_checkpoint": False,
        "legacy": False,
    }
    if isinstance(heads, int):
        unet["num_heads"] = heads
    else:
        dims = {c // h for c, h in zip(channels, heads)}
        if len(dims) > 1:
            raise Problem(
                f"heads {heads} of channels {channels}: a single file says one number of heads, or of channels"
            )
        unet["num_head_channels"] = dims.pop()
    params = {
        "linear_start": said["start"],
        "linear_end": said["end"],
        "timesteps": schedule.T,
        "scale_factor": _one(system.autoencoder.scale, "scale"),
        **({} if predicts == "eps" else {"parameterization": predicts}),
        "conditioning_key": "hybrid" if net["in_channels"] > net["out_channels"] else "crossattn",
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": _yaml_vae(system.autoencoder),
        },
        "cond_stage_config": _yaml_text(two),
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def _yaml_vae(net: Autoencoder) -> dict[str, Any]:
    made = net.encoder.arguments
    channels = list(made["channels"])
    inside = {
        "double_z": True,
        "z_channels": net.channels,
        "resolution": 256,
        "in_channels": made["in_channels"],
        "out_ch": made["in_channels"],
        "ch": channels[0],
        "ch_mult": [c // channels[0] for c in channels],
        "num_res_blocks": made["depth"],
        "attn_resolutions": [256 >> i for i, attends in enumerate(made["attention"] or []) if attends],
        "dropout": 0.0,
    }
    return {"embed_dim": net.channels, "ddconfig": inside}


def _yaml_text(two: bool) -> dict[str, Any]:
    if two:
        return {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", "params": {"layer": "penultimate"}}
    return {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}


def _write_yaml(path: Path, config: dict[str, Any]) -> None:
    import yaml

    try:
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from None


# What both share ----------------------------------------------------------------------------------------------------


def _stable(thing: Any, what: str) -> Latent:
    if not isinstance(thing, Latent) or not isinstance(thing.denoiser.net, UNet):
        raise Problem(
            f"{what} cannot hold a {type(thing).__name__}; a latent diffusion system with a U-Net was expected"
        )
    if not isinstance(thing.encoder, ClipTextEncoder):
        raise Problem(f"{what} wants CLIP's words; this system's come from a {type(thing.encoder).__name__}")
    return thing


def _is_version_2(encoder: ClipTextEncoder) -> bool:
    """open_clip's encoder: GELU where OpenAI has its own approximation."""
    return encoder.transformer.arguments["act"] == "gelu"


def _unsaid(encoder: ClipTextEncoder) -> list[str]:
    return [f"the words learned by textual inversion: {', '.join(encoder.words)}"] if encoder.words else []


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _one(values: Tensor, name: str) -> float:
    """The one number that all channels share. Raises Problem where they do not."""
    if values.unique().numel() > 1:
        raise Problem(f"an AutoencoderKL has one {name} for all channels; this one has {values.tolist()}")
    return round(float(values[0]), 7)


def _each(value: Any, levels: list) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value or 0] * len(levels)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
