"""GLIDE (Nichol et al. 2021): base and upsampler, also those that inpaint; bare state dicts of OpenAI's glide-text2im.

A guided-diffusion U-Net whose attention has the text's keys and values in front, and the text's transformer in the same
file. Heads and schedule are told, or stand in a json beside the file, or are those of the published models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..nets.joint import JointAttention2d
from ..nets.layers import Conventions
from ..nets.transformer import TextTransformer
from ..nets.unet import UNet
from ..systems.ddpm import Ddpm
from ..systems.glide import Inpaint, InpaintUpscaler
from ..systems.upscale import Upscaler
from ..text.glide import GlideEncoder, GlideTokenizer
from .guided import Said, attention, network, shapes, transformer
from .load import Found
from .tables import Entry, empty, entry, fill, layer, understood
from .unets import ldm

OPTIONS = {
    "tokenizer": "the folder with encoder.json and vocab.bpe",
    "head_dim": "channels a head of the U-Net",
    "heads": "attention heads of the U-Net, in the place of head_dim",
    "text_heads": "attention heads of the text's transformer",
    "size": "a side of the pictures, in pixels",
    "small": "a side of the pictures that an upsampler is given",
    "schedule": '"linear" or "cosine"',
    "T": "training steps",
}
# By the channels that a network takes: 3 of x, 3 of the small picture, 4 of what is left of a picture and where.
KINDS: dict[int, type[Ddpm]] = {3: Ddpm, 6: Upscaler, 7: Inpaint, 10: InpaintUpscaler}
TEXT = (
    "transformer.",
    "transformer_proj.",
    "final_ln.",
    "token_embedding.",
    "positional_embedding",
    "padding_embedding",
)


def claims(found: Found) -> bool:
    return found.has("input_blocks.0.0.weight", "middle_block.1.encoder_kv.weight", "token_embedding.weight")


def read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> Ddpm:
    """A Ddpm of the base, which makes 64×64 pictures of words, or Inpaint; an Upscaler of the upsampler."""
    with understood(found.path.name):
        return _read(found, dtype)


def _read(found: Found, dtype: torch.dtype) -> Ddpm:
    tensors, said, what = found.weights(), Said(found), found.path.name
    shape = shapes(tensors)
    given = shape["input_blocks.0.0.weight"][1]
    if given not in KINDS:
        raise Problem(f"{what} takes {given} channels: GLIDE's networks take {', '.join(map(str, KINDS))}")
    kind = KINDS[given]
    text = encoder(found, said, shape)
    arguments = network(shape, said) | {
        "attend": JointAttention2d,
        "context_dim": text.transformer.width,
        "vector_dim": shape["transformer_proj.weight"][0],
    }
    net = empty(lambda: UNet(**arguments, how=Conventions(groups=32)))
    fill(net, ldm(net, attention()), tensors, what=what, dtype=dtype, ignore=lambda key: key.startswith(TEXT))
    learned = arguments["out_channels"] == 6
    size = said("size", 4 * 2 ** len(arguments["channels"]))
    denoiser = Denoiser(
        net, said.schedule("linear" if issubclass(kind, Upscaler) else "cosine"), learned_variance=learned
    )
    how = {"spacing": "linspace", "options": {"variance": "learned" if learned else "large"}}
    if issubclass(kind, Upscaler):
        return kind(denoiser, text, size, said("small", size // 4), steps=27, **how)
    return kind(denoiser, text, size, steps=100, guidance=3.0, **how)


def encoder(found: Found, said: Said, shape: dict[str, tuple[int, ...]]) -> GlideEncoder:
    """The text's transformer, and its tokenizer where it is told or lies beside the file."""
    (rows, width), length = shape["token_embedding.weight"], shape["positional_embedding"][0]
    layers = 1 + max(int(key.split(".")[2]) for key in shape if key.startswith("transformer.resblocks."))
    heads = (
        found.told.get("text_heads") or said.flags.get("xf_heads") or found.assume("text_heads", max(1, width // 64))
    )
    if width % heads:
        raise Problem(f"text_heads={heads}: a width of {width} does not divide into so many heads")
    beside = found.path.parent
    there = any((beside / name).is_file() for name in ("encoder.json", "encoder.json.gz"))
    folder = found.told.get("tokenizer") or (beside if there else None)
    tokenizer = None if folder is None else GlideTokenizer.from_folder(Path(folder))
    if tokenizer is not None and len(tokenizer) != rows:
        raise Problem(f"{folder} knows {len(tokenizer)} tokens, the text's transformer of {found.path.name} {rows}")
    emb_dim = shape["transformer_proj.weight"][0]
    made = empty(lambda: GlideEncoder(TextTransformer(rows, width, layers, heads, length), emb_dim, tokenizer))
    table = text_entries(layers, heads)
    return fill(made, table, found.weights(), what=found.path.name, ignore=lambda key: not key.startswith(TEXT))


def text_entries(layers: int, heads: int) -> list[Entry]:
    """The text's transformer, and what is beside it."""
    return [
        entry("transformer.token.weight", "token_embedding.weight"),
        entry("transformer.position", "positional_embedding"),
        entry("padding", "padding_embedding"),
        *layer("transformer.norm", "final_ln"),
        *layer("proj", "transformer_proj"),
        *transformer("transformer.blocks", layers, heads),
    ]
