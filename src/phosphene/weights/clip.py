"""CLIP as OpenAI, open_clip and Hugging Face write it, into a ClipSystem and out of it.

Sizes are read off the tensors. What tensors do not show, the activation and the number of heads, is in the
configuration; OpenAI's own files have none and need none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import Problem
from ..nets.resnet import ClipResNet
from ..nets.transformer import TextTransformer, VisionTransformer
from ..systems.clip import ClipSystem, Look
from ..text.clip import ClipTextEncoder, ClipTokenizer
from . import clip_configs as configs
from . import files
from .clip_configs import Said
from .clip_tables import HUGGING_FACE, OPENAI, Names, entries, text_entries_hf, text_entries_open_clip
from .save import narrowed
from .tables import TRANSPOSED, Shape, empty, extract, fill

if TYPE_CHECKING:
    from .load import Found

__all__ = ["claims", "read", "text_entries_hf", "text_entries_open_clip", "write_hugging_face", "write_open_clip"]

OPTIONS = {
    "act": "the activation: quick_gelu (OpenAI's weights) or gelu",
    "heads": "attention heads of the text tower",
    "image_heads": "attention heads of the picture tower",
    "tokenizer": "the folder with the tokenizer's files",
}
WEIGHT_FILES = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
MODEL_TYPES = ("clip", "clip_text_model", "clip_vision_model")  # Hugging Face's
NOT_WEIGHTS = ("position_ids", "input_resolution", "context_length", "vocab_size", "attn_mask")

# Reading ------------------------------------------------------------------------------------------------------------


def claims(found: Found) -> bool:
    """A folder of Hugging Face's or open_clip's, or a file with either's names."""
    if found.tensors is None:
        return "model_cfg" in found.config or found.config.get("model_type") in MODEL_TYPES
    return names_in(found.tensors) is not None


def read(found: Found, dtype: torch.dtype, told: Mapping[str, Any]) -> ClipSystem:
    """The ClipSystem that was found; with one tower where there is one, unprojected where nothing projects."""
    if found.tensors is None:
        found.tensors = files.open_tensors(files.weight_file(found.path, WEIGHT_FILES))
    tensors, what = found.tensors, str(found.tensors.path)
    names = names_in(tensors)
    if names is None:
        raise Problem(f"{what} holds no CLIP: neither Hugging Face's names nor OpenAI's are in it")
    text = None if names.text is None else text_sizes(tensors, names)
    image = None if names.image is None else image_sizes(tensors, names)
    said = _said(found, names, text, image)
    encoder = None if text is None else _encoder(found, said, text)

    def make() -> ClipSystem:
        tower = None if image is None else _tower(image, **said.image)
        return ClipSystem(encoder, tower, _width(tensors, names), look=tower and Look(tower.size, **said.look))

    system = empty(make)
    own = {} if system.text and system.image else {"log_scale": torch.tensor(math.log(1 / 0.07))}
    return fill(system, entries(system, names), tensors, what=what, dtype=dtype, own=own, ignore=_ignored)


def names_in(tensors: files.Tensors) -> Names | None:
    """Whose names the tensors have, with the prefixes of the towers that are there; None where they are nobody's."""
    text = [p for p in ("text_model.", "") if f"{p}embeddings.token_embedding.weight" in tensors]
    image = [p for p in ("vision_model.", "") if f"{p}embeddings.class_embedding" in tensors]
    if text or image:
        return replace(HUGGING_FACE, text=text[0] if text else None, image=image[0] if image else None)
    seen = "visual.class_embedding" in tensors or "visual.attnpool.positional_embedding" in tensors
    return OPENAI if seen and "token_embedding.weight" in tensors else None


def text_sizes(tensors: files.Tensors, names: Names) -> dict[str, int]:
    """The arguments of a TextTransformer that its tensors show. Raises Problem where one is missing."""
    at = {e.ours[0]: f"{names.text}{e.theirs}" for e in names.text_entries(1)}
    vocabulary, width = _shape(tensors, at["token.weight"], 2)
    length, _ = _shape(tensors, at["position"], 2)
    hidden, _ = _shape(tensors, at["blocks.0.mlp.fc1.weight"], 2)
    layers = _count(tensors, f"{names.text}{names.blocks}")
    return {"vocabulary": vocabulary, "width": width, "layers": layers, "length": length, "hidden": hidden}


def image_sizes(tensors: files.Tensors, names: Names) -> dict[str, Any]:
    """The arguments of a VisionTransformer, or of a ClipResNet, that its tensors show."""
    if f"{names.image}attnpool.positional_embedding" in tensors:
        return _resnet_sizes(tensors, f"{names.image}")
    at = {e.ours[0]: f"{names.image}{e.theirs}" for e in names.image_entries(1)}
    width, _, patch, _ = _shape(tensors, at["patch.weight"], 4)
    hidden, _ = _shape(tensors, at["blocks.0.mlp.fc1.weight"], 2)
    layers, size = _count(tensors, f"{names.image}{names.blocks}"), patch * _side(tensors, at["position"])
    return {"size": size, "patch": patch, "width": width, "layers": layers, "hidden": hidden}


def _resnet_sizes(tensors: files.Tensors, at: str) -> dict[str, Any]:
    width, *_ = _shape(tensors, f"{at}conv3.weight", 4)
    out, _ = _shape(tensors, f"{at}attnpool.c_proj.weight", 2)
    layers = [_count(tensors, f"{at}layer{level}.") for level in (1, 2, 3, 4)]
    size = 32 * _side(tensors, f"{at}attnpool.positional_embedding")
    return {"layers": layers, "width": width, "size": size, "out": out}


def _said(found: Found, names: Names, text: dict[str, int] | None, image: dict[str, Any] | None) -> Said:
    """What the configuration says; what OpenAI's own files always have; or what is told or taken for granted."""
    widths = text and text["width"], image and image["width"] * (32 if "out" in image else 1)
    if "model_cfg" in found.config:
        said = configs.open_clip(found, widths)
    elif names.blocks == OPENAI.blocks and "input_resolution" in found.tensors:
        said = configs.openai(widths)
    elif found.config.get("model_type") in MODEL_TYPES:
        said = configs.hugging_face(found)
    else:
        said = configs.bare(found, widths, "gelu" if names.blocks == OPENAI.blocks else "quick_gelu")
    for tower, heads, width in ((said.text, "heads", widths[0]), (said.image, "image_heads", widths[1])):
        tower["heads"] = heads = found.told.get(heads, tower["heads"])
        if "act" in found.told:
            tower["act"] = configs.ours(configs.ACTS, "activation", found.told["act"])
        if width and (type(heads) is not int or heads < 1 or width % heads):
            raise Problem(f"{found.path}: {heads!r} heads do not divide a width of {width}")
    return said


def _encoder(found: Found, said: Said, sizes: dict[str, int]) -> ClipTextEncoder:
    transformer = empty(lambda: TextTransformer(**sizes, **said.text, causal=True))
    tokenizer = tokenizer_for(found, sizes["vocabulary"])
    return ClipTextEncoder(tokenizer, transformer, said.pad, pooled=said.pooled, long=False)


def _tower(sizes: dict[str, Any], act: str, heads: int) -> VisionTransformer | ClipResNet:
    if "out" in sizes:
        return ClipResNet(**sizes, heads=heads)
    return VisionTransformer(**sizes, heads=heads, act=act, pre_norm=True)


def tokenizer_for(found: Found, vocabulary: int) -> ClipTokenizer:
    """That which was told, that which lies in the folder or beside it, or else the one of OpenAI's CLIP.

    Raises Problem where that has more tokens than the network.
    """
    folder, whose = found.path if found.path.is_dir() else found.path.parent, "its tokenizer"
    if "tokenizer" in found.told:
        tokenizer = ClipTokenizer.from_folder(found.told["tokenizer"])
    else:
        kinds = ("vocab.json", "tokenizer.json")
        there = [f for f in (folder, folder.parent / "tokenizer") if any((f / kind).is_file() for kind in kinds)]
        tokenizer = ClipTokenizer.from_folder(there[0]) if there else ClipTokenizer.shipped()
        if not there:
            whose = f"{folder} holds no tokenizer, and the shipped one, OpenAI's, knows"
        if not there and found.path.is_dir() and "model_cfg" not in found.config:  # open_clip's own is OpenAI's
            found.notes.append(f"{folder} holds no tokenizer: taken is OpenAI's, which is shipped")
    if max(len(tokenizer) - 1, tokenizer.end) >= vocabulary:
        raise Problem(
            f"{found.path} knows {vocabulary} tokens, {whose} {len(tokenizer)}: "
            "tokenizer=FOLDER says where the right vocab.json and merges.txt are"
        )
    return tokenizer


def _width(tensors: files.Tensors, names: Names) -> int | None:
    """That of the embeddings; None where nothing projects."""
    if f"{names.image}attnpool.c_proj.weight" in tensors:
        return _shape(tensors, f"{names.image}attnpool.c_proj.weight", 2)[0]
    there = [key for key in (names.text_projection, names.image_projection) if key in tensors]
    return _shape(tensors, there[0], 2)[1 if names.projection is TRANSPOSED else 0] if there else None


def _shape(tensors: files.Tensors, key: str, sides: int) -> Shape:
    """A tensor's shape. Raises Problem where it is missing, or has another number of sides."""
    shape = tensors.shapes.get(key)
    if shape is None or len(shape) != sides or 0 in shape:
        found = "is missing" if shape is None else f"is {list(shape)}, {sides} sides were expected"
        raise Problem(f"{tensors.path}: {key} {found}")
    return shape


def _side(tensors: files.Tensors, key: str) -> int:
    """How many patches a picture is wide, from the table of positions: side² of them and the class's."""
    positions = _shape(tensors, key, 2)[0] - 1
    if positions < 1 or math.isqrt(positions) ** 2 != positions:
        raise Problem(f"{tensors.path}: {key} has {positions + 1} rows, a square and one were expected")
    return math.isqrt(positions)


def _count(tensors: files.Tensors, prefix: str) -> int:
    """How many blocks lie under a prefix: prefix + 0. …, without a gap."""
    numbers = {key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)}
    return next(n for n in range(len(numbers) + 1) if str(n) not in numbers)


def _ignored(key: str) -> bool:
    return key.rsplit(".", 1)[-1] in NOT_WEIGHTS


# Writing ------------------------------------------------------------------------------------------------------------


def write_hugging_face(system: ClipSystem, folder: str | Path, dtype: torch.dtype | None = None) -> list[str]:
    """A CLIPModel's folder, or that of one tower; gives what it cannot hold, in words: nothing.

    dtype of the tensors, None as they are. Raises Problem for towers that it has no place for, which are all but
    transformers with OpenAI's conventions.
    """
    text, image = _towers(system, (VisionTransformer,), "Hugging Face's")
    width = system.arguments["width"]
    made = {}
    if text is not None:
        made["text"] = configs.hugging_face_text(text, width)
        configs.write_tokenizer(text.tokenizer, Path(folder), text.pad, text.transformer.length)
    if image is not None:
        made["vision"] = configs.hugging_face_image(image, width)
        configs.write_json(Path(folder) / "preprocessor_config.json", configs.preprocessor(system.look))
    if len(made) == 2:
        kind, both = "CLIPModel", {f"{tower}_config": said for tower, said in made.items()}
        config = {"model_type": "clip", "projection_dim": width, **both}
    else:
        [(tower, config)] = made.items()
        kind = f"CLIP{tower.capitalize()}Model{'WithProjection' if width else ''}"
    configs.write_json(Path(folder) / "config.json", {"architectures": [kind], **config})
    tensors = narrowed(extract(system, entries(system, HUGGING_FACE)), dtype)
    files.write_tensors(Path(folder) / "model.safetensors", tensors, {"format": "pt"})
    return []


def write_open_clip(system: ClipSystem, folder: str | Path, dtype: torch.dtype | None = None) -> list[str]:
    """An open_clip folder: configuration and weights; gives what it cannot hold, in words.

    dtype of the tensors, None as they are. Raises Problem for what it has no place for: one tower alone, towers
    of another kind, two activations.
    """
    text, image = _towers(system, (VisionTransformer, ClipResNet), "open_clip's")
    if text is None or image is None or system.arguments["width"] is None:
        raise Problem("open_clip's format wants a text tower and a picture tower, and both projected")
    configs.write_json(Path(folder) / "open_clip_config.json", configs.open_clip_config(system))
    tensors = narrowed(extract(system, entries(system, OPENAI)), dtype)
    files.write_tensors(Path(folder) / "open_clip_model.safetensors", tensors, {"format": "pt"})
    lost = []
    if text.tokenizer.arguments["table"] != "openai":
        lost.append("the tokenizer: open_clip takes OpenAI's")
    if text.pooled != "largest" and text.tokenizer.end != text.transformer.token.num_embeddings - 1:
        lost.append("which token ends a text: open_clip takes the largest number")
    if not system.look.whole and system.look.short != system.look.size:
        lost.append(f"that a picture's short side becomes {system.look.short} before {system.look.size} are cut out")
    return lost


def _towers(
    system: ClipSystem, kinds: tuple[type, ...], whose: str
) -> tuple[ClipTextEncoder | None, VisionTransformer | ClipResNet | None]:
    """Both towers, as the format has them. Raises Problem where they are others, or this is no CLIP at all."""
    if not isinstance(system, ClipSystem):
        raise Problem(f"{whose} format holds a CLIP; this is a {type(system).__name__}")
    text: ClipTextEncoder | None = system.text
    image: VisionTransformer | ClipResNet | None = system.image
    if text is not None and not (isinstance(text, ClipTextEncoder) and text.transformer.causal and not text.skip):
        raise Problem(f"{whose} format has no place for this text encoder, which is not CLIP's")
    if image is not None and not (isinstance(image, kinds) and image.arguments.get("pre_norm", True)):
        raise Problem(f"{whose} format has no place for this picture tower, a {type(image).__name__} of ours")
    if image is not None and system.look is None:
        raise Problem(f"{whose} format says what a picture tower is shown, and this CLIP takes pictures as they are")
    return text, image
