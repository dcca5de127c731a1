"""CLIP's tables: two sets of names for one network.

OpenAI's, which open_clip kept, with q, k and v packed into one matrix and projections that stand on the right (x @ P);
and Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..nets.resnet import ClipResNet
from ..systems.clip import ClipSystem
from .tables import SAME, TRANSPOSED, Entry, Form, Packed, Shape, entry, layer, under


@dataclass(frozen=True)
class Flat:
    """A vector there, with sides of 1 in front of it here."""

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        [shape] = shapes
        if tuple(theirs.shape) != shape[-1:]:
            raise ValueError(f"is {list(theirs.shape)}, {list(shape[-1:])} was expected")
        return [theirs.reshape(shape)]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].flatten()


def block_entries_hf() -> list[Entry]:
    """One block of a tower, Hugging Face's names."""
    return [
        *layer("norm1", "layer_norm1"),
        *layer("norm2", "layer_norm2"),
        *[e for q in "qkv" for e in layer(f"attn.to_{q}", f"self_attn.{q}_proj")],
        *layer("attn.to_out", "self_attn.out_proj"),
        *layer("mlp.fc1", "mlp.fc1"),
        *layer("mlp.fc2", "mlp.fc2"),
    ]


def block_entries_open_clip() -> list[Entry]:
    """One block of a tower, OpenAI's and open_clip's names."""
    packed = [f"attn.to_{q}" for q in "qkv"]
    return [
        *layer("norm1", "ln_1"),
        *layer("norm2", "ln_2"),
        entry([f"{name}.weight" for name in packed], "attn.in_proj_weight", Packed()),
        entry([f"{name}.bias" for name in packed], "attn.in_proj_bias", Packed()),
        *layer("attn.to_out", "attn.out_proj"),
        *layer("mlp.fc1", "mlp.c_fc"),
        *layer("mlp.fc2", "mlp.c_proj"),
    ]


def _blocks(layers: int, theirs: str, block: list[Entry]) -> list[Entry]:
    return [e for i in range(layers) for e in under(f"blocks.{i}.", f"{theirs}.{i}.", block)]


def text_entries_hf(layers: int) -> list[Entry]:
    """A TextTransformer in what lies under `text_model.` of a Hugging Face CLIP."""
    return [
        entry("token.weight", "embeddings.token_embedding.weight"),
        entry("position", "embeddings.position_embedding.weight"),
        *_blocks(layers, "encoder.layers", block_entries_hf()),
        *layer("norm", "final_layer_norm"),
    ]


def text_entries_open_clip(layers: int) -> list[Entry]:
    """A TextTransformer in an OpenAI or open_clip file; the projection and the temperature beside it are not here."""
    return [
        entry("token.weight", "token_embedding.weight"),
        entry("position", "positional_embedding"),
        *_blocks(layers, "transformer.resblocks", block_entries_open_clip()),
        *layer("norm", "ln_final"),
    ]


def image_entries_hf(layers: int) -> list[Entry]:
    """A VisionTransformer in what lies under `vision_model.` of a Hugging Face CLIP."""
    return [
        entry("first", "embeddings.class_embedding", Flat()),
        entry("position", "embeddings.position_embedding.weight"),
        *layer("patch", "embeddings.patch_embedding", bias=False),
        *layer("norm_in", "pre_layrnorm"),
        *_blocks(layers, "encoder.layers", block_entries_hf()),
        *layer("norm", "post_layernorm"),
    ]


def image_entries_open_clip(layers: int) -> list[Entry]:
    """A VisionTransformer in what lies under `visual.` of an OpenAI or open_clip file."""
    return [
        entry("first", "class_embedding", Flat()),
        entry("position", "positional_embedding"),
        *layer("patch", "conv1", bias=False),
        *layer("norm_in", "ln_pre"),
        *_blocks(layers, "transformer.resblocks", block_entries_open_clip()),
        *layer("norm", "ln_post"),
    ]


def resnet_entries(layers: Sequence[int]) -> list[Entry]:
    """A ClipResNet in what lies under `visual.` of an OpenAI or open_clip file."""
    convs = [e for n in (1, 2, 3) for e in _conv(f"conv{n}", f"norm{n}", f"conv{n}", f"bn{n}")]
    shortcut = _conv("shortcut", "shortcut_norm", "downsample.0", "downsample.1")
    made = list(convs)
    for number, (level, i) in enumerate((level, i) for level, count in enumerate(layers) for i in range(count)):
        made += under(f"blocks.{number}.", f"layer{level + 1}.{i}.", convs if i else convs + shortcut)
    pool = [e for q in "qkv" for e in layer(f"attn.to_{q}", f"{q}_proj")] + layer("attn.to_out", "c_proj")
    return made + under("pool.", "attnpool.", [entry("position", "positional_embedding"), *pool])


def _conv(conv: str, norm: str, their_conv: str, their_norm: str) -> list[Entry]:
    """A convolution without a bias and the BatchNorm after it."""
    numbers = ("running_mean", "running_var", "num_batches_tracked")
    measured = [entry(f"{norm}.{name}", f"{their_norm}.{name}") for name in numbers]
    return [*layer(conv, their_conv, bias=False), *layer(norm, their_norm), *measured]


@dataclass(frozen=True)
class Names:
    """Whose names: the prefixes of the towers (None: there is no such tower), their tables, and the projections'."""

    text: str | None
    image: str | None
    blocks: str
    text_entries: Callable[[int], list[Entry]]
    image_entries: Callable[[int], list[Entry]]
    text_projection: str
    image_projection: str
    projection: Form


HUGGING_FACE = Names(
    "text_model.", "vision_model.", "encoder.layers.", text_entries_hf, image_entries_hf,
    "text_projection.weight", "visual_projection.weight", SAME,
)  # fmt: skip
OPENAI = Names(
    "", "visual.", "transformer.resblocks.", text_entries_open_clip, image_entries_open_clip,
    "text_projection", "visual.proj", TRANSPOSED,
)  # fmt: skip


def entries(system: ClipSystem, names: Names) -> list[Entry]:
    """The whole of a ClipSystem: its towers, projections and, where it has both towers, the temperature."""
    made: list[Entry] = []
    if system.text is not None:
        made += under("text.transformer.", names.text, names.text_entries(len(system.text.transformer.blocks)))
    if isinstance(system.image, ClipResNet):
        made += under("image.", names.image, resnet_entries(system.image.arguments["layers"]))
    elif system.image is not None:
        made += under("image.", names.image, names.image_entries(len(system.image.blocks)))
    for ours, theirs in (("text_projection", names.text_projection), ("image_projection", names.image_projection)):
        if isinstance(getattr(system, ours), nn.Linear):
            made.append(entry(f"{ours}.weight", theirs, names.projection))
    return [*made, entry("log_scale", "logit_scale")] if system.text and system.image else made
