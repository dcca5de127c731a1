"""Stable Diffusion 1 and 2: the original single file, and the diffusers folder.

Which of the two a file holds is seen in its structure: version 2's words come from open_clip's names. Both become a
systems.latent.Latent; a U-Net alone becomes a UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import ScaledLinear
from ..errors import Problem, unknown
from ..nets.transformer import TextTransformer
from ..nets.unet import UNet
from ..systems.latent import Latent
from ..text.clip import ClipTextEncoder, ClipTokenizer
from . import files, scheduler, stable_unet, vae
from .clip_configs import ACTS
from .clip_tables import text_entries_hf, text_entries_open_clip
from .load import Found
from .settings import listed, number, place, read_from, text, whole
from .tables import Shape, empty, fill
from .vae import counted

OPTIONS = {
    "predicts": "eps, v or x0: what the network was trained to say",
    "heads": "attention heads of the U-Net, a number or one a level",
    "text_heads": "attention heads of the text encoder",
    "tokenizer": "the folder with the tokenizer's files",
    "vae": "another autoencoder: a file or a folder",
    "ema": "True takes the averaged weights that lie beside the last ones",
    "scale": vae.OPTIONS["scale"],
}
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
)
UNET, VAE, TEXT, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema.diffusion_model"
HUGGING_FACE, OPEN_CLIP = TEXT + "transformer.", TEXT + "model."
GUIDANCE = 7.5


def claims(found: Found) -> bool:
    """A pipeline's folder, a single file, or the U-Net alone, by its class or its keys."""
    if found.kind in PIPELINES:
        return True
    if found.kind == "UNet2DConditionModel":
        kinds = [found.config.get(key) for key in ("down_block_types", "up_block_types")]
        return not any(str(kind).startswith("Simple") for named in kinds if isinstance(named, list) for kind in named)
    if found.tensors is None:
        return False
    shapes = found.tensors.shapes
    return (
        stable_unet.is_ldm(found.tensors.under(UNET).shapes)
        or stable_unet.is_ldm(shapes)
        or stable_unet.is_diffusers(shapes)
    )


def read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> Latent | UNet:
    """The whole as a Latent, the U-Net alone as a UNet; its weights in `dtype`, the rest in float32."""
    if told.get("predicts", "eps") not in ("eps", "v", "x0"):
        raise unknown("prediction", told["predicts"], ("eps", "v", "x0"))
    if found.kind in PIPELINES:
        return _folder(found, dtype)
    tensors = found.weights()
    if any(key.startswith((TEXT, VAE)) for key in tensors):
        return _single(found, dtype)
    return _unet_alone(found, dtype)


# The diffusers folder -----------------------------------------------------------------------------------------------


def _folder(found: Found, dtype: torch.dtype) -> Latent:
    for name in {"ema", "heads", "text_heads", *(() if "vae" in found.told else ("scale",))} & set(found.told):
        raise Problem(f"{found.path}: {name}=… is for single files; this folder's configurations say it themselves")
    unet = found.part("unet")
    stable_unet.check(unet.config, str(unet.path))  # before anything large is read
    net = _unet_alone(unet, dtype)
    settings = found.path / "scheduler" / "scheduler_config.json"
    plan = scheduler.plan(files.read_json(settings), str(settings))
    if plan.threshold is not None:
        raise Problem(f"{settings}: thresholding=True is for pictures, and this model makes latents")
    found.notes += plan.notes
    autoencoder = _autoencoder(found) or vae.read(found.part("vae"), torch.float32, {})
    with read_from(str(settings)):
        denoiser = Denoiser(net, plan.schedule, found.told.get("predicts", plan.predicts))
    return _system(
        found,
        net,
        autoencoder,
        _text_of_folder(found.path / "text_encoder", found),
        denoiser,
        side=_side(unet),
        sampler=plan.sampler,
        spacing=plan.spacing,
        steps=plan.steps,
        guidance=1.0 if plan.sampler == "lcm" else GUIDANCE,
        offset=plan.offset,
        end=plan.end,
    )


def _side(unet: Found) -> int:
    """The larger side of the latents that it was trained on."""
    said = unet.config.get("sample_size")
    sides = said if isinstance(said, list) and said else [said or 64]
    return max(whole({"sample_size": side}, "sample_size", 64, str(unet.path)) for side in sides)


def _text_of_folder(folder: Path, found: Found) -> ClipTextEncoder:
    """transformers' CLIPTextModel; transformers 5 writes its names without `text_model.` in front."""
    config = files.read_json(folder / "config.json")
    tensors = files.open_tensors(files.weight_file(folder))
    named = (listed(config, "architectures", str(folder)) or ["CLIPTextModel"])[0]
    if named not in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        raise Problem(f"{folder} is a {named}; Stable Diffusion's words come from a CLIPTextModel")
    if config.get("layer_norm_eps", 1e-5) != 1e-5:
        raise Problem(f"{folder}: layer_norm_eps={config['layer_norm_eps']} is not known here, only 1e-05")
    act = text(config, "hidden_act", "quick_gelu", str(folder))
    if act not in ACTS:
        raise unknown(f"hidden_act in {folder / 'config.json'}", act, ACTS)
    prefix = "text_model." if any(key.startswith("text_model.") for key in tensors) else ""
    heads = whole(config, "num_attention_heads", 8, str(folder))
    transformer = _transformer(tensors.under(prefix), heads, ACTS[act], str(folder))
    tokenizer = _tokenizer(found, transformer, folder.parent / "tokenizer")
    return ClipTextEncoder(tokenizer, transformer)  # the tokenizer knows the padding


# The single file ----------------------------------------------------------------------------------------------------


def _single(found: Found, dtype: torch.dtype) -> Latent:
    tensors, params = found.weights(), _params(found.config)
    two = any(key.startswith(OPEN_CLIP) for key in tensors)
    net = _unet_of_ldm(found, _section(params, "unet_config"), two, dtype)
    said = str(found.path.with_suffix(".yaml"))
    ends = [number(params, f"linear_{end}", usual, said, 0) for end, usual in (("start", 0.00085), ("end", 0.012))]
    with read_from(said):
        schedule = ScaledLinear(whole(params, "timesteps", 1000, said, 2), *ends, zero_snr="ztsnr" in tensors)
    predicts = _predicts(found, params, two)
    encoder = _text_of_single(found, two)
    autoencoder = _autoencoder(found)
    if autoencoder is None:
        if not found.has_under(VAE):
            raise Problem(f"{found.path} has no autoencoder (first_stage_model.…): name one, vae=FILE")
        scale = found.told.get("scale", params.get("scale_factor", vae.SCALE))
        autoencoder = vae.autoencoder(tensors.under(VAE), {}, str(found.path), scale)
    return _system(
        found,
        net,
        autoencoder,
        encoder,
        Denoiser(net, schedule, predicts),
        side=96 if two and predicts == "v" else 64,
        spacing="trailing" if "ztsnr" in tensors else "karras",
        guidance=GUIDANCE,
    )


def _predicts(found: Found, params: Mapping[str, Any], two: bool) -> str:
    """Version 1 predicts ε. Version 2 came as v (768 pixels) and as ε (512), and its files do not say which."""
    said = params.get("parameterization", None if two else "eps")
    if said not in (None, "eps", "v", "x0"):
        raise unknown(f"parameterization in {found.path.with_suffix('.yaml')}", said, ("eps", "v", "x0"))
    if "v_pred" in found.weights():
        said = "v"
    if "predicts" in found.told or said is None:
        base = found.weights().rest.get("global_step") == 875000  # of stabilityai's 512-base-ema.ckpt
        return found.ask("predicts", "eps" if base else "v")
    return said


def _unet_of_ldm(found: Found, params: Mapping[str, Any], two: bool, dtype: torch.dtype) -> UNet:
    tensors = found.weights().under(UNET)
    heads = stable_unet.heads_of(found, tensors.shapes, params, two)
    if found.told.get("ema"):
        tensors = _averaged(found.weights(), tensors)
    return stable_unet.read(tensors, {}, heads, str(found.path), dtype)


def _averaged(all_of_it: files.Tensors, tensors: files.Tensors) -> files.Tensors:
    """The same names, with the averaged weights, whose own names have lost their dots."""
    stored = {key: all_of_it.stored.get(EMA + key.replace(".", "")) for key in tensors}
    missing = [key for key, value in stored.items() if value is None]
    if missing:
        raise Problem(f"{all_of_it.path} has no averaged weights (model_ema.…) for {UNET}{missing[0]}: leave ema out")
    return files.Tensors(all_of_it.path, stored)


def _text_of_single(found: Found, two: bool) -> ClipTextEncoder:
    tensors = found.weights()
    if two:
        inside = tensors.under(OPEN_CLIP)
        transformer = _transformer(inside, _text_heads(found, inside.shapes), "gelu", str(found.path))
        tokenizer = _tokenizer(found, transformer)
        return ClipTextEncoder(tokenizer, transformer, pad=0, skip=1)  # the last block but one, then the norm
    inside = tensors.under(HUGGING_FACE)
    if not inside:
        raise Problem(f"{found.path} has no text encoder ({HUGGING_FACE}… or {OPEN_CLIP}…)")
    inside = inside.under("text_model.") or inside
    transformer = _transformer(inside, _text_heads(found, inside.shapes), "quick_gelu", str(found.path))
    return ClipTextEncoder(_tokenizer(found, transformer), transformer)


def _text_heads(found: Found, shapes: Mapping[str, Shape]) -> int:
    """CLIP's heads are 64 wide; at other widths than version 1's and 2's that is assumed aloud."""
    width = next((s[1] for key, s in shapes.items() if key.endswith("token_embedding.weight")), 64)
    if "text_heads" in found.told or width not in (768, 1024):
        return found.ask("text_heads", max(1, width // 64))
    return width // 64


def _params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """model.params of a yaml of ldm's; {} of anything else."""
    return _section(_section(config, "model", within=None), "params", within=None)


def _section(config: Mapping[str, Any], name: str, within: str | None = "params") -> Mapping[str, Any]:
    inside = config.get(name)
    inside = inside.get(within) if within and isinstance(inside, dict) else inside
    return inside if isinstance(inside, dict) else {}


# What both share ----------------------------------------------------------------------------------------------------


def _system(
    found: Found, net: UNet, autoencoder: nn.Module, encoder: ClipTextEncoder, denoiser: Denoiser, *, side: int, **how
) -> Latent:
    """The parts put together. Raises Problem where they do not fit."""
    takes, latents = net.arguments["in_channels"], autoencoder.channels
    if takes not in (latents, 2 * latents + 1) or net.arguments["out_channels"] != latents:
        raise Problem(
            f"{found.path}: a U-Net of {takes} channels on latents of {latents}; {latents}, or for inpainting "
            f"{2 * latents + 1}, is read here"
        )
    if net.arguments["context_dim"] != encoder.width:
        raise Problem(
            f"{found.path}: its words are {encoder.width} wide, its U-Net wants {net.arguments['context_dim']}"
        )
    return Latent(denoiser, autoencoder, encoder, size=side * autoencoder.f, **how).eval()


def _unet_alone(found: Found, dtype: torch.dtype) -> UNet:
    tensors = found.weights()
    tensors = tensors.under(UNET) or tensors
    params = _section(_params(found.config), "unet_config")
    heads = stable_unet.heads_of(found, tensors.shapes, params, open_clip=False)
    config = found.config if found.kind else {}
    return stable_unet.read(tensors, config, heads, str(found.path), dtype)


def _autoencoder(found: Found) -> nn.Module | None:
    """What `vae` tells to take; None where nothing is told."""
    path = place(found.told, "vae")
    return None if path is None else vae.at(path, found.told.get("scale", vae.SCALE))


def _transformer(tensors: files.Tensors, heads: int, act: str, what: str) -> TextTransformer:
    """A text tower of either naming; its projection, and what is a number and no weight, is left out."""
    shapes = tensors.shapes
    hugging = "embeddings.token_embedding.weight" in shapes
    blocks = counted(shapes, "encoder.layers" if hugging else "transformer.resblocks")
    names = (
        "embeddings.token_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.mlp.fc1.weight",
    )
    if not hugging:
        names = ("token_embedding.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight")
    if any(name not in shapes for name in names):
        raise Problem(f"{what}: its text encoder lacks {next(name for name in names if name not in shapes)}")
    (vocabulary, width), (length, _), (hidden, _) = (shapes[name] for name in names)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise Problem(f"{what}: {heads} heads do not divide a text encoder's width of {width}")
    made = empty(lambda: TextTransformer(vocabulary, width, blocks, heads, length, True, act, hidden))
    table = text_entries_hf(blocks) if hugging else text_entries_open_clip(blocks)
    beside = ("embeddings.position_ids", "text_projection", "text_projection.weight", "logit_scale", "attn_mask")
    return fill(made, table, tensors, what=what, ignore=lambda key: key in beside)


def _tokenizer(found: Found, transformer: TextTransformer, folder: Path | None = None) -> ClipTokenizer:
    """The tokenizer that is told, of the model's own folder, or of one beside a file; else the shipped one."""
    rows = transformer.token.num_embeddings
    beside = folder or found.path.parent / "tokenizer"
    if "tokenizer" in found.told or any((beside / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        folder = place(found.told, "tokenizer") or beside
        tokenizer = ClipTokenizer.from_folder(folder)
        if len(tokenizer) > rows:
            raise Problem(f"{folder} knows {len(tokenizer)} tokens, the text encoder {rows}")
        return tokenizer
    if rows < 49408:  # OpenAI's
        raise Problem(
            f"{beside} is missing, or holds neither vocab.json and merges.txt nor tokenizer.json, which a text encoder "
            f"of {rows} tokens wants: tokenizer=FOLDER says where they are"
        )
    if folder is not None:
        found.notes.append(f"{folder} is missing, or holds no tokenizer: taken is OpenAI's, which is shipped")
    return ClipTokenizer.shipped()
