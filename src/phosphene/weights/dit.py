"""DiT (Peebles & Xie 2023): the original .pt, and diffusers' folders, which make pictures of ImageNet's classes.

The original file holds the network and its classes; its autoencoder is Stable Diffusion's, and is told. diffusers
stores the time's and the classes' embedding once in every block, all the same, and feeds the time to other sinusoids
than the network was trained with: which, is told, and the training's are the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import Linear
from ..errors import Problem
from ..nets.dit import DiT
from ..nets.layers import AddedTimeEmbedding, Conventions
from ..systems.latent import Latent
from ..text.encoders import ClassEncoder
from . import files, scheduler, vae
from .ddpm import variance
from .load import Found
from .tables import Entry, Packed, Shape, empty, entry, fill, layer
from .vae import counted

OPTIONS = {
    "heads": "attention heads",
    "vae": "the autoencoder of its latents: a file or a folder",
    "freq_shift": "of the time's sinusoids: 0 as it was trained, 1 as diffusers calculates",
    "scale": vae.OPTIONS["scale"],
}
WIDTH_OF_HEAD = {384: 64, 768: 64, 1024: 64, 1152: 72}  # DiT-S, B, L, XL
KNOWN: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-5, 1e-6),  # the class has 1e-5 and 1e-6 in its blocks, whatever this says
    "norm_type": ("ada_norm_zero",),
    "double_self_attention": (False,),
    "only_cross_attention": (False,),
    "cross_attention_dim": (None,),
}


@dataclass(frozen=True)
class Unpatched:
    """The last layer's rows: there (row, column, channel) of a patch, here (channel, row, column)."""

    patch: int

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        [shape] = shapes
        if tuple(theirs.shape) != shape:
            raise ValueError(f"is {list(theirs.shape)}, {list(shape)} was expected")
        return [self._cut(theirs, -1).movedim(2, 0).reshape(shape)]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        rows = ours[0].reshape(-1, self.patch, self.patch, *ours[0].shape[1:])
        return rows.movedim(0, 2).reshape(ours[0].shape)

    def _cut(self, rows: Tensor, channels: int) -> Tensor:
        return rows.reshape(self.patch, self.patch, channels, *rows.shape[1:])


def claims(found: Found) -> bool:
    """DiTPipeline, DiTTransformer2DModel (or Transformer2DModel with its norm), or the original's keys."""
    if found.kind in ("DiTPipeline", "DiTTransformer2DModel"):
        return True
    if found.kind == "Transformer2DModel":
        return found.config.get("norm_type") == "ada_norm_zero"
    return found.has("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight")


def read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> Latent | Denoiser:
    """A Latent, told a class; without an autoencoder the Denoiser alone, whose network wants the class's vector."""
    pipeline = found.kind == "DiTPipeline"
    inside = found.part("transformer") if pipeline else found
    settings = found.path / "scheduler" / "scheduler_config.json"
    said = files.read_json(settings) if pipeline else {}
    plan = scheduler.plan(said, str(settings)) if pipeline else None
    net, classes = network(inside, dtype)
    learned = net.out_channels == 2 * net.arguments["in_channels"]
    denoiser = Denoiser(net, plan.schedule if plan else Linear(), plan.predicts if plan else "eps", None, learned)
    scale = told.get("scale", vae.SCALE)
    if "vae" in told:
        autoencoder = vae.at(told["vae"], scale)
    elif pipeline:
        autoencoder = vae.read(found.part("vae"), torch.float32, {})
    else:
        found.notes.append(f"{found.path.name} has no autoencoder, so it makes no pictures; vae=FILE names one")
        return denoiser.eval()
    if autoencoder.channels != net.arguments["in_channels"]:
        raise Problem(
            f"{found.path}: a network of {net.arguments['in_channels']} channels on latents of {autoencoder.channels}"
        )
    how: dict[str, Any] = dict(sampler="ddpm", spacing="linspace", steps=250)  # "250" there: both ends are visited
    options = {"variance": "learned" if learned else "large"}
    if plan:
        how = dict(sampler=plan.sampler, spacing=plan.spacing, steps=plan.steps, offset=plan.offset, end=plan.end)
        options = variance(said, str(settings)) if plan.sampler == "ddpm" else {}
    size = inside.config.get("sample_size") or _side(inside.weights().shapes, net.patch)
    return Latent(
        denoiser, autoencoder, classes, size=size * autoencoder.f, guidance=4.0, options=options, **how
    ).eval()


def network(found: Found, dtype: torch.dtype) -> tuple[DiT, ClassEncoder]:
    """The network and the embedding of its classes, in either naming."""
    tensors, what = found.weights(), str(found.path)
    original = "x_embedder.proj.weight" in tensors
    check(found.config if not original else {}, what)
    first = "x_embedder.proj.weight" if original else "pos_embed.proj.weight"
    for name in (first, *_names(0, original).values()):
        if f"{name.removesuffix('.weight')}.weight" not in tensors:
            raise Problem(f"{what} lacks {name.removesuffix('.weight')}.weight: not a DiT")
    shapes, names = tensors.shapes, _names(0, original)
    width, channels, patch, _ = shapes[first]
    last, table = names["out"], names["classes"]
    shift = 0.0 if original else float(found.ask("freq_shift", 0.0))
    net = empty(
        lambda: DiT(
            channels,
            shapes[f"{last}.weight"][0] // patch**2,
            patch,
            width,
            counted(shapes, "blocks" if original else "transformer_blocks"),
            _heads(found, width),
            vector_dim=width,
            hidden=shapes[f"{names['fc1']}.weight"][0],
            time_dim=shapes[f"{names['time']}.weight"][1],
            time=AddedTimeEmbedding,
            how=Conventions(freq_shift=shift),
        )
    )
    rows = shapes[f"{table}.weight"][0]
    classes = empty(lambda: ClassEncoder(rows - 1, width, _labels(found)))
    entries, again = entries_of(net, original), _repeated(net, original)
    _same(tensors, again, what)
    passed = {f"{table}.weight", "pos_embed", "pos_embed.pos_embed", *again}
    fill(net, entries, tensors, what=what, dtype=dtype, ignore=lambda key: key in passed)
    fill(
        classes,
        [entry("embedding.weight", f"{table}.weight")],
        {f"{table}.weight": tensors[f"{table}.weight"]},
        what=what,
    )
    return net, classes


def check(config: Mapping[str, Any], what: str) -> None:
    """Problem for a setting that changes what is computed in a way unknown here."""
    for key, known in KNOWN.items():
        if key in config and config[key] not in known:
            raise Problem(f"{what}: {key}={config[key]!r} in its config.json is not known here, only {known[0]!r}")


# Tables -------------------------------------------------------------------------------------------------------------


def _names(i: int, original: bool) -> dict[str, str]:
    """What some layers are called there, those of block i among them."""
    if original:
        return {"time": "t_embedder.mlp.0", "time2": "t_embedder.mlp.2", "classes": "y_embedder.embedding_table",
                "fc1": f"blocks.{i}.mlp.fc1", "out": "final_layer.linear"}  # fmt: skip
    emb = f"transformer_blocks.{i}.norm1.emb"
    return {"time": f"{emb}.timestep_embedder.linear_1", "time2": f"{emb}.timestep_embedder.linear_2",
            "classes": f"{emb}.class_embedder.embedding_table", "fc1": f"transformer_blocks.{i}.ff.net.0.proj",
            "out": "proj_out_2"}  # fmt: skip


def entries_of(net: DiT, original: bool) -> list[Entry]:
    """The network's tensors under the original's names, or under diffusers'."""
    names = _names(0, original)
    made = layer("time.mlp.0", names["time"]) + layer("time.mlp.2", names["time2"])
    made += layer("embed", "x_embedder.proj" if original else "pos_embed.proj")
    made += layer("modulation", "final_layer.adaLN_modulation.1" if original else "proj_out_1")
    made += [entry(f"out.{kind}", f"{names['out']}.{kind}", Unpatched(net.patch)) for kind in ("weight", "bias")]
    for i in range(len(net.blocks)):
        here = f"blocks.{i}"
        there = here if original else f"transformer_blocks.{i}"
        attn = [f"{here}.attn.to_{c}" for c in "qkv"]
        if original:
            made += layer(attn, f"{there}.attn.qkv", Packed()) + layer(f"{here}.attn.to_out", f"{there}.attn.proj")
            rest = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "modulation": "adaLN_modulation.1"}
        else:
            made += [e for name, c in zip(attn, "qkv") for e in layer(name, f"{there}.attn1.to_{c}")]
            rest = {"attn.to_out": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
                    "modulation": "norm1.linear"}  # fmt: skip
        made += [e for name, other in rest.items() for e in layer(f"{here}.{name}", f"{there}.{other}")]
    return made


def _repeated(net: DiT, original: bool) -> dict[str, str]:
    """{key of a later block: key of the first one} of the embeddings that diffusers stores in every block."""
    if original:
        return {}
    pairs = {}
    for i in range(1, len(net.blocks)):
        for name in ("time", "time2", "classes"):
            for kind in ("weight", "bias") if name != "classes" else ("weight",):
                pairs[f"{_names(i, False)[name]}.{kind}"] = f"{_names(0, False)[name]}.{kind}"
    return pairs


def _same(tensors: Mapping[str, Tensor], pairs: Mapping[str, str], what: str) -> None:
    for key, first in pairs.items():
        if key not in tensors or not torch.equal(tensors[key], tensors[first]):
            raise Problem(f"{what}: {key} is not the same as {first}; one embedding for all blocks was expected")


def _heads(found: Found, width: int) -> int:
    heads = found.config.get("num_attention_heads")
    if heads is None:
        known = width // WIDTH_OF_HEAD[width] if width in WIDTH_OF_HEAD else None
        heads = found.told.get("heads", known) or found.assume("heads", max(1, width // 64))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise Problem(f"{found.path}: {heads} heads do not divide a width of {width}")
    return heads


def _labels(found: Found) -> list[str] | None:
    """The classes' names, where the pipeline's folder has them."""
    index = found.path.parent / "model_index.json"
    labels = files.read_json(index).get("id2label") if index.is_file() else None
    if not isinstance(labels, dict) or not all(str(i) in labels for i in range(len(labels))):
        return None
    return [str(labels[str(i)]) for i in range(len(labels))]


def _side(shapes: Mapping[str, Shape], patch: int) -> int:
    """A side of the latents, from the stored positions; DiT's 32 without them."""
    n = shapes.get("pos_embed", (1, 0, 0))[1]
    return round(n**0.5) * patch if n else 32
