"""Autoencoders: Stable Diffusion's (AutoencoderKL), those with a codebook (VQModel), the tiny ones (TAESD).

The structure is read from the tensors' shapes, so a file without a configuration is enough; what shapes do not say
(groups, the factor of the latents) comes from the configuration, else from the class's defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import Problem
from ..nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder
from ..nets.layers import Conventions, CornerDownsample, ResBlock, SelfAttention2d, Upsample
from ..nets.quantize import VqAutoencoder
from ..nets.tiny import TinyAutoencoder
from . import bundle, files
from .load import Found, look
from .settings import listed, number, whole
from .tables import Entry, Same, empty, entry, fill, layer
from .unets import DIFFUSERS, res_block

OPTIONS = {"scale": "the factor of the latents: 0.18215 for Stable Diffusion 1 and 2, 1 for most codebooks"}
KINDS = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
SCALE = 0.18215  # Rombach et al. 2022's, and the default of both classes
CODEBOOK = "quantize.embedding.weight"
PREFIXES = ("first_stage_model.", "vae.", "")
LDM_RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "shortcut": "nin_shortcut"}
DIFFUSERS_RES = {name: other for name, other in DIFFUSERS.items() if name != "emb"}

# The attention in the middle: ours -> theirs
LDM_ATTENTION = {"norm": "norm", "attn.to_q": "q", "attn.to_k": "k", "attn.to_v": "v", "attn.to_out": "proj_out"}
NEW_ATTENTION = {
    "norm": "group_norm",
    **{f"attn.to_{c}": f"to_{c}" for c in "qkv"},
    "attn.to_out": "to_out.0",
}
OLD_ATTENTION = {
    "norm": "group_norm",
    "attn.to_q": "query",
    "attn.to_k": "key",
    "attn.to_v": "value",
    "attn.to_out": "proj_attn",
}

# Keys of a diffusers configuration that change what is computed, with the values that are known here
KNOWN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "mid_block_add_attention": (True,),
    "norm_type": ("group",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "lookup_from_codebook": (False,),
    "upsampling_scaling_factor": (2,),
    "upsample_fn": ("nearest",),
}


def claims(found: Found) -> bool:
    """An autoencoder alone: a folder or a file, with or without a prefix before its names."""
    if found.kind in KINDS:
        return True
    return found.tensors is not None and (_prefix(found.tensors) is not None or _tiny(found.tensors) is not None)


def read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> nn.Module:
    """The autoencoder, in float32 whatever `dtype` is: it is a small part of the work, and half precision shows."""
    tensors, what = found.weights(), str(found.path)
    if _tiny(tensors) is not None:
        check(found.config, what, KNOWN | {"act_fn": ("relu",)})
        return tiny(tensors, found.config, what)
    prefix = _prefix(tensors)
    if prefix is None:
        raise Problem(f"{what} has no encoder.conv_in.weight and decoder.conv_in.weight: not an autoencoder")
    tensors = tensors.under(prefix)
    usual = 1.0 if CODEBOOK in tensors else SCALE
    scale = found.ask("scale", usual) if "scale" in told or found.kind not in KINDS else None
    return autoencoder(tensors, found.config, what, scale)


def at(path: str | Path, scale: float) -> nn.Module:
    """The autoencoder at a path, alone or inside of a system, whose latents are scaled as it says, else by `scale`.

    Raises Problem where there is none.
    """
    found = look(path)
    if found is None:
        system = bundle.load(path)
        part = getattr(system, "autoencoder", system)
    else:
        found = found.part("vae") if "vae" in found.config else found  # of a pipeline's folder
        found.told = {} if found.kind in KINDS else {"scale": scale}
        part = read(found, torch.float32, found.told)
    if not all(hasattr(part, name) for name in ("channels", "f", "encode", "decode")):
        raise Problem(f"{path} is a {type(part).__name__}, an autoencoder was expected")
    return part


def in_place_of(system: nn.Module, path: str | Path) -> nn.Module:
    """The autoencoder at a path, to stand where the system's own does; scaled as that one, if its file does not say.

    Raises Problem where the system has none, and where the two do not have latents of one shape.
    """
    own = getattr(system, "autoencoder", None)
    if own is None or not hasattr(own, "f"):
        raise Problem(f"{path}: this {type(system).__name__} has no autoencoder to replace")
    other = at(path, float(torch.as_tensor(getattr(own, "scale", 1.0)).mean()))
    if (other.channels, other.f) != (own.channels, own.f):
        theirs, ours = f"{other.channels} channels at 1/{other.f}", f"{own.channels} channels at 1/{own.f}"
        raise Problem(f"{path}: its latents have {theirs} of a picture's size, the model's {ours}")
    return other


def autoencoder(
    tensors: files.Tensors, config: Mapping[str, Any], what: str, scale: float | None = None
) -> Autoencoder | VqAutoencoder:
    """The autoencoder in tensors of either naming. scale: the factor of the latents, if not the configuration's."""
    shapes = tensors.shapes
    check(config, what)
    usual = {"scaling_factor": config.get("scaling_factor", SCALE) if scale is None else scale}
    factor = number(usual, "scaling_factor", SCALE, what, least=1e-8)
    try:
        made = empty(lambda: _made(shapes, whole(config, "norm_num_groups", 32, what), factor))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise Problem(f"{what} is not an autoencoder that can be read here ({error})") from None
    entries = ldm(made) if "encoder.norm_out.weight" in shapes else diffusers(made, old=_is_old(shapes))
    own = {}
    if isinstance(made, Autoencoder):
        ones = torch.ones(made.channels)
        shift = number({"shift_factor": config.get("shift_factor") or 0.0}, "shift_factor", 0.0, what)
        own = {"shift": shift * ones, "scale": factor * ones}
    return fill(made, entries, tensors, what=what, own=own, ignore=lambda key: key.startswith(("loss.", "model_ema")))


def check(config: Mapping[str, Any], what: str, known: Mapping[str, tuple[Any, ...]] = KNOWN) -> None:
    """Problem for a setting of a diffusers configuration that changes what is computed in a way unknown here."""
    for key, values in known.items():
        if key in config and config[key] not in values:
            raise Problem(f"{what}: {key}={config[key]!r} in its config.json is not known here, only {values[0]!r}")
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for named in listed(config, key, what):
            if named not in (kind, f"Attn{kind}"):
                raise Problem(f"{what}: {key} has {named!r} in its config.json, only {kind!r} is known here")


def counted(shapes: Iterable[str], start: str) -> int:
    """How many numbers follow `start` in the keys, counted from 0: the length of a list of modules."""
    n = 0
    while any(key.startswith(f"{start}.{n}.") for key in shapes):
        n += 1
    return n


def _made(shapes: dict[str, tuple[int, ...]], groups: int, scale: float) -> Autoencoder | VqAutoencoder:
    """The network that tensors of these shapes fit."""
    is_ldm = "encoder.norm_out.weight" in shapes
    level, block = ("encoder.down", "block") if is_ldm else ("encoder.down_blocks", "resnets")
    n = counted(shapes, level)
    channels = [shapes[f"{level}.{i}.{block}.0.conv1.weight"][0] for i in range(n)]
    depth = counted(shapes, f"{level}.0.{block}")
    norm = "attn.0.norm.weight" if is_ldm else "attentions.0.group_norm.weight"
    attention = [int(f"{level}.{i}.{norm}" in shapes) for i in range(n)]
    how = Conventions(groups=groups, eps=1e-6)
    told = dict(channels=channels, patch=1, block=ResBlock, attend=SelfAttention2d, how=how, attention=attention)
    given, wanted = shapes["encoder.conv_out.weight"][0], shapes["decoder.conv_in.weight"][1]
    pictures, painted = shapes["encoder.conv_in.weight"][1], shapes["decoder.conv_out.weight"][0]
    encoder = ConvEncoder(given, depth=depth, in_channels=pictures, down=CornerDownsample, **told)
    decoder = ConvDecoder(wanted, depth=depth + 1, out_channels=painted, up=Upsample, **told)
    f = 2 ** (n - 1)
    if CODEBOOK in shapes:
        entries, width = shapes[CODEBOOK]
        return VqAutoencoder(encoder, decoder, width, f, entries, wanted, scale)
    mixed = "quant_conv.weight" in shapes
    if mixed != ("post_quant_conv.weight" in shapes) or given != 2 * wanted:
        raise ValueError(f"{given} channels from the encoder, {wanted} to the decoder")
    return Autoencoder(encoder, decoder, wanted, f, mixed=mixed)


# Tables -------------------------------------------------------------------------------------------------------------


def ldm(made: Autoencoder | VqAutoencoder) -> list[Entry]:
    """The names of ldm: encoder.down.0.block.1, decoder.up counted from the full size."""
    n = len(_levels(made))

    def place(half: str, kind: str, i: int, j: int) -> str:
        if kind == "middle":
            return f"{half}.mid.{('block_1', 'attn_1', 'block_2')[j]}"
        side = f"{half}.down.{i}" if half == "encoder" else f"{half}.up.{n - 1 - i}"
        resize = f"{'down' if half == 'encoder' else 'up'}sample.conv"
        return f"{side}." + {"block": f"block.{j}", "attend": f"attn.{j}", "resize": resize}[kind]

    return _entries(made, place, LDM_RES, LDM_ATTENTION, 2, "norm_out")


def diffusers(made: Autoencoder | VqAutoencoder, old: bool = False) -> list[Entry]:
    """The names of diffusers: encoder.down_blocks.0.resnets.1. old: with the attention's names before 0.18."""

    def place(half: str, kind: str, i: int, j: int) -> str:
        if kind == "middle":
            return f"{half}.mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[j]}"
        side = "down" if half == "encoder" else "up"
        names = {"block": f"resnets.{j}", "attend": f"attentions.{j}", "resize": f"{side}samplers.0.conv"}
        return f"{half}.{side}_blocks.{i}.{names[kind]}"

    attention = OLD_ATTENTION if old else NEW_ATTENTION
    return _entries(made, place, DIFFUSERS_RES, attention, 0, "conv_norm_out")


def _entries(made, place, res: dict[str, str], attention: dict[str, str], ones: int, norm: str) -> list[Entry]:
    """place(half, "middle" | "block" | "attend" | "resize", level, index) says where a module stands there."""
    entries = []
    for half in ("encoder", "decoder"):
        net, i, j = getattr(made, half), 0, 0
        entries += [*layer(f"{half}.conv_in", f"{half}.conv_in"), *layer(f"{half}.conv_out", f"{half}.conv_out")]
        entries += layer(f"{half}.norm", f"{half}.{norm}")
        first = len(net.blocks) - 3 if half == "encoder" else 0  # of the three in the middle
        for k, block in enumerate(net.blocks):
            ours, middle = f"{half}.blocks.{k}", first <= k < first + 3
            if isinstance(block, SelfAttention2d):
                theirs = place(half, "middle", 0, k - first) if middle else place(half, "attend", i, j - 1)
                for name, other in attention.items():
                    entries += layer(f"{ours}.{name}", f"{theirs}.{other}", Same(0 if name == "norm" else ones))
            elif isinstance(block, ResBlock):
                theirs = place(half, "middle", 0, k - first) if middle else place(half, "block", i, j)
                entries += res_block(block, ours, theirs, res)
                j += not middle
            else:
                entries += layer(f"{ours}.conv", place(half, "resize", i, 0))
                i, j = i + 1, 0
    if not isinstance(made.mix, nn.Identity):
        entries += [*layer("mix", "quant_conv"), *layer("unmix", "post_quant_conv")]
    if isinstance(made, VqAutoencoder):
        entries.append(entry("codebook", CODEBOOK))
    return entries


def _levels(made: Autoencoder | VqAutoencoder) -> list[int]:
    return list(made.encoder.arguments["channels"])


def _is_old(shapes: Iterable[str]) -> bool:
    return "encoder.mid_block.attentions.0.query.weight" in shapes


def _prefix(tensors: Iterable[str]) -> str | None:
    """What stands before an autoencoder's names; None where there is none."""
    keys = set(tensors)
    has = (p for p in PREFIXES if {f"{p}encoder.conv_in.weight", f"{p}decoder.conv_in.weight"} <= keys)
    return next(has, None)


# The tiny ones ------------------------------------------------------------------------------------------------------


def tiny(tensors: files.Tensors, config: Mapping[str, Any], what: str) -> TinyAutoencoder:
    """TAESD in diffusers' names, or the original's: one file with both halves, or one a half beside the other."""
    halves = _tiny(tensors)
    if "encoder" not in halves or "decoder" not in halves:
        halves |= _other_half(tensors, halves)
    shapes = {half: inside.shapes for half, inside in halves.items()}
    first, last = shapes["encoder"]["0.weight"], shapes["decoder"]["0.weight"]
    blocks = {half: _blocks(half, keys) for half, keys in shapes.items()}
    scale = number(config, "scaling_factor", 1.0, what, least=1e-8)
    made = empty(
        lambda: TinyAutoencoder(last[1], first[0], blocks["encoder"], blocks["decoder"], first[1], scale=scale)
    )
    entries = [entry(key, key) for key in made.state_dict()]
    flat = {f"{half}.{key}": t for half, inside in halves.items() for key, t in inside.items()}
    return fill(made, entries, flat, what=what)


def _tiny(tensors: files.Tensors) -> dict[str, files.Tensors] | None:
    """{"encoder": its layers by number, "decoder": …}, as many as there are; None where it is no tiny autoencoder.

    The original counts the decoder's clamp, a layer without weights, as layer 0.
    """
    keys = set(tensors)
    for before in ("", "taesd_"):
        for between in (".layers.", "."):
            halves = {half: f"{before}{half}{between}" for half in ("encoder", "decoder")}
            has = {
                h: start for h, start in halves.items() if any(f"{start}{n}.conv.0.weight" in keys for n in (1, 2, 3))
            }
            if has:
                return {half: _from_zero(tensors.under(start)) for half, start in has.items()}
    if "1.conv.0.weight" in keys:
        return {"encoder": tensors}
    return {"decoder": _from_zero(tensors)} if "3.conv.0.weight" in keys and "1.weight" in keys else None


def _from_zero(layers: files.Tensors) -> files.Tensors:
    if "0.weight" in layers:
        return layers
    moved = {}
    for key, stored in layers.stored.items():
        number, _, rest = key.partition(".")
        moved[f"{int(number) - 1}.{rest}" if number.isdigit() else key] = stored
    return files.Tensors(layers.path, moved)


def _other_half(tensors: files.Tensors, halves: dict[str, files.Tensors]) -> dict[str, files.Tensors]:
    [there] = halves
    wanted = "decoder" if there == "encoder" else "encoder"
    other = tensors.path.with_name(tensors.path.name.replace(there, wanted))
    if other == tensors.path or not other.is_file():
        raise Problem(f"{tensors.path} is the {there} of a tiny autoencoder; its {wanted} was expected beside it")
    found = _tiny(files.open_tensors(other))
    if found is None or wanted not in found:
        raise Problem(f"{other} is not the {wanted} of a tiny autoencoder")
    return {wanted: found[wanted]}


def _blocks(half: str, keys: Iterable[str]) -> list[int]:
    """How many blocks at each size: a convolution without a bias begins the next size."""
    numbers = sorted({int(key.partition(".")[0]) for key in keys if key.partition(".")[0].isdigit()})
    counts = [0]
    for n in numbers[1:-1]:
        if f"{n}.conv.0.weight" in keys:
            counts[-1] += 1
        else:
            counts.append(0)
    return counts
