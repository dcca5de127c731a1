"""OpenAI's guided-diffusion (ADM, Dhariwal & Nichol 2021): U-Nets, upsamplers and classifiers, bare state dicts.

The files say nothing of how the rows of q, k and v are ordered, how many heads there are, and on which schedule the
network was trained; that is told, or stands as OpenAI's flags in a json beside the file, or is the default of the
repository's README for the file's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import Cosine, Linear, Schedule
from ..errors import Problem, unknown
from ..nets.classifier import AttentionHead, MeanHead, NoisyClassifier, NormedSpatialHead, SpatialHead
from ..nets.joint import CrossAttention2d, JointAttention2d
from ..nets.layers import (
    AddedTimeEmbedding,
    Conventions,
    Downsample,
    PlainResDownsample,
    PlainResUpsample,
    ResBlock,
    ResDownsample,
    ResUpsample,
    ScaleShiftResBlock,
    Upsample,
)
from ..nets.unet import UNet
from ..systems.ddpm import Ddpm
from ..systems.upscale import Upscaler
from ..text.encoders import ClassEncoder
from .load import Found
from .tables import TRANSPOSED, Entry, Packed, Same, empty, entry, fill, layer, understood
from .unets import Attend, ldm

OPTIONS = {
    "qkv": 'the order of the rows of q, k and v: "legacy" (head by head) or "new"',
    "heads": "attention heads, the same number on every level",
    "head_dim": "channels a head, in the place of heads",
    "size": "a side of the pictures, in pixels",
    "small": "a side of the pictures that an upsampler is given",
    "schedule": '"linear" or "cosine"',
    "T": "training steps",
    "predicts": '"eps", or "x0" where it was trained with predict_xstart',
}

# What the README's flags say of the published files, where that is not the default.
PUBLISHED: dict[str, dict[str, Any]] = {
    "64x64_diffusion": {"qkv": "new", "schedule": "cosine"},
    "128x128_diffusion": {"heads": 4},
    "64_256_upsampler": {"heads": 4},
    "128_512_upsampler": {"size": 512},
}
ORDERS = {"legacy": False, "new": True}  # use_new_attention_order


def claims(found: Found) -> bool:
    return found.has("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight") and not (
        found.has("token_embedding.weight")
        or found.has("encoder_pooling.1.positional_embedding")
        or found.has("cf_param")
    )


def read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> Ddpm | NoisyClassifier:
    """A Ddpm, an Upscaler where the network is shown a small picture, or a NoisyClassifier."""
    with understood(found.path.name):
        return _read(found, dtype)


def _read(found: Found, dtype: torch.dtype) -> Ddpm | NoisyClassifier:
    tensors = found.weights()
    said = Said(found)
    if not any(key.startswith("output_blocks.") for key in tensors):
        return classifier(tensors, said, dtype, found.path.name)
    arguments = network(shapes(tensors), said)
    given = arguments["in_channels"]
    x = given // 2 if given in (arguments["out_channels"], 2 * arguments["out_channels"]) and given % 2 == 0 else given
    if arguments["out_channels"] not in (x, 2 * x):
        raise Problem(
            f"{found.path.name} makes {arguments['out_channels']} channels of {given}, which is no upsampler's"
        )
    label, classes = "label_emb.weight", None
    if label in tensors:
        rows, width = shapes(tensors)[label]
        classes = fill(
            empty(lambda: ClassEncoder(rows, width, null=False)),
            [entry("embedding.weight", label)],
            {label: tensors[label]},
            what=found.path.name,
        )
        arguments["vector_dim"] = width
    net = empty(lambda: UNet(**arguments, how=Conventions(groups=32)))
    table = ldm(net, attention(legacy=said("qkv", "legacy", ORDERS) == "legacy"))
    fill(net, table, tensors, what=found.path.name, dtype=dtype, ignore=lambda key: key == label)
    learned = arguments["out_channels"] == 2 * x
    denoiser = Denoiser(net, said.schedule(), said("predicts", "eps"), learned_variance=learned)
    size = said("size", 4 * 2 ** len(arguments["channels"]))
    how: dict[str, Any] = {
        "size": size,
        "channels": x,
        "spacing": "linspace",  # "250" there: both ends are visited
        "options": {"variance": "learned" if learned else "large"},
    }
    if x < given:
        return Upscaler(denoiser, classes, small=said("small", size // 4), **how)
    return Ddpm(denoiser, classes, **how)


class Said:
    """What is told, else what the flags beside the file say, else what is published of its name, else a default.

    said(name, default, known) → the value; Problem for one that is not known.
    """

    FLAGS = {"size": "image_size", "small": "small_size", "schedule": "noise_schedule", "T": "diffusion_steps"}

    def __init__(self, found: Found):
        self.found = found
        inside = found.config.get("model") or found.config.get("config") or found.config
        self.flags = inside if isinstance(inside, Mapping) else {}
        self.name = found.path.stem

    def __call__(self, name: str, default: Any, known: Any = None) -> Any:
        flag = self._flag(name)
        if name in self.found.told:
            value = self.found.told[name]
        elif flag is not None:
            value = flag
        else:
            value = PUBLISHED.get(self.name, {}).get(name, default)
            if name not in ("T", "predicts"):  # no other files are about
                self.found.assume(name, value)
        if known is not None and value not in known:
            raise unknown(name, value, known)
        return value

    def _flag(self, name: str) -> Any:
        if name == "qkv" and "use_new_attention_order" in self.flags:
            return "new" if self.flags["use_new_attention_order"] else "legacy"
        if name == "predicts" and "predict_xstart" in self.flags:
            return "x0" if self.flags["predict_xstart"] else "eps"
        if name == "schedule" and self.flags.get("noise_schedule") == "squaredcos_cap_v2":
            return "cosine"
        if name == "size" and "large_size" in self.flags:
            return self.flags["large_size"]
        return self.flags.get(self.FLAGS.get(name, ""))

    def head_dims(self, channels: list[int]) -> list[int]:
        """Channels a head on every level."""
        told, dim = self.found.told, self.flags.get("num_head_channels", -1)
        heads = told.get("heads")
        if heads is None and "head_dim" not in told:
            heads = PUBLISHED.get(self.name, {}).get("heads")
            if dim == -1 and "num_heads" in self.flags:
                heads = self.flags["num_heads"]
            elif heads is not None:
                self.found.assume("heads", heads)
        if heads is None:
            dim = told.get("head_dim", dim)
            dim = self.found.assume("head_dim", 64) if dim == -1 else dim
            return [dim] * len(channels)
        if any(c % heads for c in channels):
            raise Problem(f"heads={heads}: {channels} channels do not divide into so many heads")
        return [c // heads for c in channels]

    def schedule(self, default: str = "linear") -> Schedule:
        """Its betas: linear ones are those of 1000 steps, stretched."""
        T, kind = self("T", 1000), self("schedule", default, ("linear", "cosine"))
        if self.flags.get("rescale_timesteps") and T != 1000:
            raise Problem(f"rescale_timesteps with diffusion_steps={T} is not read")
        return Cosine(T) if kind == "cosine" else Linear(T, 0.1 / T, 20 / T)


# Structure ----------------------------------------------------------------------------------------------------------


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """{key: shape}, without loading what is mapped."""
    known = getattr(tensors, "shapes", None)
    return dict(known) if known is not None else {key: tuple(t.shape) for key, t in tensors.items()}


def network(shape: Mapping[str, tuple[int, ...]], said: Said) -> dict[str, Any]:
    """The arguments of the U-Net, all but vector_dim and how. A level of the right half ends in a way up."""
    channels, depth, attention, ways, res = [], [], [], {""}, False
    for k in range(_count(shape, "output_blocks")):
        at = f"output_blocks.{k}"
        if ways:  # the block before was its level's last
            channels.append(shape[f"{at}.0.out_layers.3.weight"][0])
            attention.append(int(f"{at}.1.qkv.weight" in shape))
            depth.append(-1)
        depth[-1] += 1
        ways = {kind for kind in ("conv", "in_layers.0") if f"{at}.{1 + attention[-1]}.{kind}.weight" in shape}
        res = ways == {"in_layers.0"} if ways else res
    channels, depth, attention = channels[::-1], depth[::-1], attention[::-1]
    return {
        **_common(shape, channels, depth, attention, said),
        "out_channels": shape["out.2.weight"][0],
        "up": _ways(shape, res)[1],
    }


def half(shape: Mapping[str, tuple[int, ...]], said: Said) -> dict[str, Any]:
    """The arguments of a classifier's left half: a level is n blocks and a way down, n the same on all of them.

    Where the ways down are residual blocks n is the largest that fits: channels change at the beginning of a level
    only, no way down attends or changes them, and in a level all blocks attend or none.
    """
    blocks = range(1, _count(shape, "input_blocks"))
    out = {k: next(shape[f"input_blocks.{k}.0.{n}.weight"][0] for n in ("out_layers.3", "op") if
                   f"input_blocks.{k}.0.{n}.weight" in shape) for k in blocks}  # fmt: skip
    attends = {k: int(f"input_blocks.{k}.1.qkv.weight" in shape) for k in blocks}
    changes = {k for k in blocks if f"input_blocks.{k}.0.skip_connection.weight" in shape}
    strided = {k for k in blocks if f"input_blocks.{k}.0.op.weight" in shape}

    def fits(n: int) -> bool:
        downs = {k for k in blocks if k % n == 0}
        even = all(
            len({attends[k] for k in blocks if k // n == i and k % n}) == 1 for i in range((len(blocks) + 1) // n)
        )
        straight = all(k % n == 1 for k in changes) and not any(attends[k] for k in downs)
        return (len(blocks) + 1) % n == 0 and even and straight and strided in (set(), downs)

    n = next((n for n in range(len(blocks) + 1, 1, -1) if fits(n)), None)
    if n is None:
        raise Problem("the blocks of this classifier do not fall into levels of the same number of blocks")
    firsts = [k for k in blocks if k % n == 1]
    channels, attention = [out[k] for k in firsts], [attends[k] for k in firsts]
    return _common(shape, channels, [n - 1] * len(firsts), attention, said)


def _common(shape: Mapping[str, tuple[int, ...]], channels: list, depth: list, attention: list, said: Said) -> dict:
    emb_dim, time_dim = shape["time_embed.0.weight"]
    scaled = shape["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * shape["input_blocks.1.0.out_layers.3.weight"][0]
    res = not any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key) for key in shape)
    return {
        "in_channels": shape["input_blocks.0.0.weight"][1],
        "channels": channels,
        "depth": depth,
        "attention": attention,
        "head_dim": said.head_dims(channels),
        "emb_dim": emb_dim,
        "time_dim": time_dim,
        "block": ScaleShiftResBlock if scaled else ResBlock,
        "down": _ways(shape, res)[0],
        "time": AddedTimeEmbedding,
    }


def _ways(shape: Mapping[str, tuple[int, ...]], res: bool) -> tuple[type, type]:
    """The ways down and up: convolutions, or residual blocks of the same kind as the others."""
    if not res:
        return Downsample, Upsample
    scaled = shape["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * shape["input_blocks.1.0.out_layers.3.weight"][0]
    return (ResDownsample, ResUpsample) if scaled else (PlainResDownsample, PlainResUpsample)


def _count(shape: Mapping[str, tuple[int, ...]], name: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in shape if key.startswith(f"{name}."))


# Tables -------------------------------------------------------------------------------------------------------------


def attention(legacy: bool = True) -> Attend:
    """OpenAI's attention: q, k and v are the rows of one 1×1 convolution, head by head in the `legacy` order.

    Also GLIDE's, karlo's and DeepFloyd's, where the tokens' k and v are another, and some attend to tokens alone.
    """

    def entries(attend: nn.Module, ours: str, theirs: str) -> list[Entry]:
        rows = Packed(attend.attn.heads if legacy else 1, ones=1)
        made = layer(f"{ours}.norm", f"{theirs}.norm") + layer(f"{ours}.attn.to_out", f"{theirs}.proj_out", Same(1))
        if isinstance(attend, CrossAttention2d):
            made += layer(f"{ours}.attn.to_q", f"{theirs}.qkv", Same(1))
            made += layer([f"{ours}.attn.to_{c}" for c in "kv"], f"{theirs}.encoder_kv", rows)
        else:
            made += layer([f"{ours}.attn.to_{c}" for c in "qkv"], f"{theirs}.qkv", rows)
        if isinstance(attend, JointAttention2d):
            made += layer([f"{ours}.to_{c}" for c in "kv"], f"{theirs}.encoder_kv", rows)
        if isinstance(getattr(attend, "norm_tokens", None), nn.GroupNorm):
            made += layer(f"{ours}.norm_tokens", f"{theirs}.norm_encoder")
        return made

    return entries


def transformer(ours: str, layers: int, heads: int) -> list[Entry]:
    """OpenAI's transformer of tokens, of GLIDE's text and karlo's prior: q, k and v are packed head by head."""
    names = {"norm1": "ln_1", "attn.to_out": "attn.c_proj"}
    names |= {"norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    made = []
    for i in range(layers):
        here, there = f"{ours}.{i}", f"transformer.resblocks.{i}"
        made += layer([f"{here}.attn.to_{c}" for c in "qkv"], f"{there}.attn.c_qkv", Packed(heads))
        made += [e for name, other in names.items() for e in layer(f"{here}.{name}", f"{there}.{other}")]
    return made


# (the key that tells it, the head, its entries)
HEADS: list[tuple[str, type, list[Entry]]] = [
    (
        "out.2.positional_embedding",
        AttentionHead,
        [
            *layer("head.norm", "out.0"),
            entry("head.pool.position", "out.2.positional_embedding", TRANSPOSED),
            *layer([f"head.pool.attn.to_{c}" for c in "qkv"], "out.2.qkv_proj", Packed(ones=1)),
            *layer("head.pool.attn.to_out", "out.2.c_proj", Same(1)),
        ],
    ),
    ("out.1.weight", NormedSpatialHead, [
        *layer("head.hidden", "out.0"), *layer("head.norm", "out.1"), *layer("head.out", "out.3"),
    ]),
    ("out.3.weight", MeanHead, [*layer("head.norm", "out.0"), *layer("head.out", "out.3", Same(2))]),
    ("out.2.weight", SpatialHead, [*layer("head.hidden", "out.0"), *layer("head.out", "out.2")]),
]  # fmt: skip


def classifier(tensors: Mapping[str, Tensor], said: Said, dtype: torch.dtype, what: str) -> NoisyClassifier:
    """A NoisyClassifier: its head by the keys, its size by the positions that the head has, else told."""
    shape = shapes(tensors)
    head, table = next(((head, table) for key, head, table in HEADS if key in shape), (None, []))
    if head is None:
        raise Problem(f"{what} is half a U-Net, with no head of a classifier's")
    arguments = half(shape, said)
    levels = len(arguments["channels"])
    if head is AttentionHead:
        side = math.isqrt(shape["out.2.positional_embedding"][1] - 1)
        size, classes = side * 2 ** (levels - 1), shape["out.2.c_proj.weight"][0]
    else:
        size, classes = said("size", 4 * 2**levels), shape[table[-2].theirs][0]
    net = empty(lambda: NoisyClassifier(**arguments, classes=classes, size=size, head=head, how=Conventions(groups=32)))
    table = ldm(net, attention(legacy=said("qkv", "legacy", ORDERS) == "legacy")) + table
    return fill(net, table, tensors, what=what, dtype=dtype)


# Times --------------------------------------------------------------------------------------------------------------


def respaced(sections: str, T: int = 1000) -> Tensor:
    """The times of `--timestep_respacing`: noisiest first, ending at 0, as `generate(times=…)` takes them.

    "250"       so many steps, both ends visited
    "10,15,20"  so many in every third, each from end to end
    "ddim25"    every (T/25)-th step from the cleanest
    Raises Problem for what is none of these, or does not fit into T steps.
    """
    ddim = re.fullmatch(r"ddim(\d+)", sections)
    if ddim:
        n = int(ddim[1])
        kept = next((range(0, T, i) for i in range(1, T) if len(range(0, T, i)) == n), None)
        if kept is None:
            raise Problem(f"respacing {sections!r}: {n} steps at a whole distance do not fit into {T}")
    elif re.fullmatch(r"\d+(,\d+)*", sections):
        kept = _sections([int(n) for n in sections.split(",")], T)
    else:
        raise Problem(f"respacing {sections!r}: a number of steps, several with commas between, or ddim and a number")
    times = [(k + 1) / T for k in sorted(kept, reverse=True)]
    return torch.tensor([*times, 0.0], dtype=torch.float64)


def _sections(counts: list[int], T: int) -> list[int]:
    ends = [i * (T // len(counts)) + min(i, T % len(counts)) for i in range(len(counts) + 1)]
    kept = []
    for n, (start, end) in zip(counts, pairwise(ends)):
        if not 1 <= n <= end - start:
            raise Problem(f"respacing: {n} steps do not fit into a section of {end - start}")
        stride = (end - start - 1) / max(1, n - 1)
        kept += [start + round(i * stride) for i in range(n)]
    return kept
