"""What the tensors of a CLIP do not show, as Hugging Face and open_clip write it beside them.

Activation, heads, where the text's state is taken, what the picture tower is shown. The names in JSON are theirs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Problem, unknown
from ..nets.resnet import ClipResNet
from ..nets.transformer import TextTransformer, VisionTransformer
from ..systems.clip import ClipSystem, Look
from ..text.clip import ClipTextEncoder, ClipTokenizer
from . import files

if TYPE_CHECKING:
    from .load import Found

# their name -> ours; of two, the first is written
ACTS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
FILTERS: dict[Any, str] = {3: "bicubic", 2: "bilinear"}  # PIL's numbers
EPS = 1e-5  # of every LayerNorm
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}  # of open_clip's ViT-H, -g and -bigG; 64 in all smaller ones
# What is read of open_clip's model_cfg, text_cfg and vision_cfg, seen in the tensors, or of no consequence here
MODEL_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"}
IMAGE_KEYS = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"}


@dataclass
class Said:
    """What the tensors do not show.

    text, image   act and heads of a tower; the heads of one that is missing are None
    pooled, pad   of ClipTextEncoder
    look          arguments of Look beside the size
    """

    text: dict[str, Any]
    image: dict[str, Any]
    pooled: bool | str = "largest"
    pad: int | None = 0
    look: dict[str, Any] = field(default_factory=dict)


# Reading: `widths` are those of the two towers, None for one that is missing ------------------------------------------


def bare(found: Found, widths: tuple[int | None, int | None], act: str) -> Said:
    """No configuration: what was told, or a default that is noted."""
    act = ours(ACTS, "activation", found.ask("act", act))
    text, image = widths
    return Said(
        {"act": act, "heads": text and found.ask("heads", max(1, text // 64))},
        {"act": act, "heads": image and found.ask("image_heads", max(1, image // HEAD_WIDTHS.get(image, 64)))},
    )


def openai(widths: tuple[int | None, int | None]) -> Said:
    """OpenAI's own files, which are all alike."""
    text, image = ({"act": "quick_gelu", "heads": width and width // 64} for width in widths)
    return Said(text, image)


def open_clip(found: Found, widths: tuple[int | None, int | None]) -> Said:
    """open_clip_config.json. Raises Problem for a model with something in it that ours has not."""
    path, model = found.path, inside(found.config, "model_cfg", found.path)
    text, image = inside(model, "text_cfg", path), inside(model, "vision_cfg", path)
    for said, known in ((model, MODEL_KEYS), (text, TEXT_KEYS), (image, IMAGE_KEYS)):
        for key, value in said.items():
            if key not in known and value not in (None, False, "tok", "argmax"):
                raise Problem(f"{path}: a CLIP of open_clip with {key} = {value!r} is not read")
    shown = inside(found.config, "preprocess_cfg", path)
    way = shown.get("resize_mode", "shortest")
    if way not in ("shortest", "squash"):
        raise Problem(f"{path}: resize_mode is {way!r}; shortest and squash are read")
    look: dict[str, Any] = {key: colour(shown, key, path) for key in ("mean", "std") if key in shown}
    look["filter"] = ours({f: f for f in FILTERS.values()}, "interpolation", shown.get("interpolation", "bicubic"))
    head = whole(image.get("head_width", 64), "head_width", path)
    act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return Said(
        {"act": act, "heads": whole(text.get("heads", 8), "heads", path)},
        {"act": act, "heads": widths[1] and widths[1] // head},
        look=look | {"whole": way == "squash"},
    )


def hugging_face(found: Found) -> Said:
    """config.json and preprocessor_config.json; where a key is missing, the default of transformers' classes."""
    config, path = found.config, found.path
    kind = config.get("model_type")
    text = config if kind == "clip_text_model" else inside(config, "text_config", path)
    image = config if kind == "clip_vision_model" else inside(config, "vision_config", path)
    towers = []
    for said, heads in ((text, 8), (image, 12)):
        if said.get("layer_norm_eps", EPS) != EPS:
            raise Problem(f"{path}: layer_norm_eps is {said['layer_norm_eps']!r}; {EPS} is read")
        act = ours(ACTS, "hidden_act", said.get("hidden_act", "quick_gelu"))
        heads = whole(said.get("num_attention_heads", heads), "num_attention_heads", path)
        towers.append({"act": act, "heads": heads})
    largest = text.get("eos_token_id") == 2  # in old configurations, where it is not <|endoftext|>
    return Said(*towers, pooled="largest" if largest else True, pad=None, look=_preprocessor(path))


def _preprocessor(path: Path) -> dict[str, Any]:
    """Look's arguments, from what lies beside a Hugging Face model; none, which is OpenAI's, where nothing does."""
    folder = path if path.is_dir() else path.parent
    if (folder / "preprocessor_config.json").is_file():
        said = files.read_json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        said = inside(files.read_json(folder / "processor_config.json"), "image_processor", folder)
    else:
        return {}
    keys = (("mean", "image_mean"), ("std", "image_std"))
    look: dict[str, Any] = {name: colour(said, key, folder) for name, key in keys if key in said}
    if said.get("do_normalize") is False:
        look |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    size = said.get("size")
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    if short is not None:
        look["short"] = whole(short, "size", folder)
    look["whole"] = isinstance(size, dict) and short is None
    return look | {"filter": ours(FILTERS, "resample", said.get("resample", 3))}


def inside(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """The dict under a key, {} where there is none. Raises Problem where it is something else."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise Problem(f"{path}: {key} is {value!r}, an object was expected")
    return value


def whole(value: Any, name: str, path: Path) -> int:
    """A whole number above 0. Raises Problem for anything else."""
    if type(value) is not int or value < 1:
        raise Problem(f"{path}: {name} is {value!r}, a whole number above 0 was expected")
    return value


def colour(config: dict[str, Any], key: str, path: Path) -> list[float]:
    """Three numbers, one a colour. Raises Problem for anything else."""
    value = config[key]
    if not (isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)):
        raise Problem(f"{path}: {key} is {value!r}, three numbers were expected")
    return value


def ours(names: dict[Any, str], what: str, theirs: Any) -> str:
    """Our name of what a file calls `theirs`. Raises Problem for what is not among the names."""
    if not isinstance(theirs, (str, int)) or theirs not in names:
        raise unknown(what, str(theirs), [str(n) for n in names])
    return names[theirs]


# Writing ------------------------------------------------------------------------------------------------------------


def theirs(names: dict[Any, str], what: str, ours: str) -> Any:
    """What a file calls our `ours`. Raises Problem where it has no name for it."""
    for name, known in names.items():
        if known == ours:
            return name
    raise Problem(f"{what} {ours!r} has no name in this format; it knows {', '.join(names.values())}")


def hugging_face_text(encoder: ClipTextEncoder, width: int | None = None) -> dict[str, Any]:
    """config.json of a CLIPTextModel; width is the projection's."""
    made = encoder.transformer.arguments
    return {
        "model_type": "clip_text_model",
        **_hugging_face_tower(encoder.transformer, width),
        "vocab_size": made["vocabulary"],
        "max_position_embeddings": made["length"],
        "bos_token_id": encoder.tokenizer.start,
        "eos_token_id": 2 if encoder.pooled == "largest" else encoder.tokenizer.end,
        "pad_token_id": encoder.pad,
    }


def hugging_face_image(tower: VisionTransformer, width: int | None = None) -> dict[str, Any]:
    """config.json of a CLIPVisionModel; width is the projection's."""
    made = tower.arguments
    picture = {"image_size": made["size"], "patch_size": made["patch"], "num_channels": 3}
    return {"model_type": "clip_vision_model", **_hugging_face_tower(tower, width), **picture}


def _hugging_face_tower(tower: TextTransformer | VisionTransformer, width: int | None) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.blocks[0].mlp.fc1.out_features,
        "num_hidden_layers": len(tower.blocks),
        "num_attention_heads": tower.arguments["heads"],
        "hidden_act": theirs(ACTS, "activation", tower.arguments["act"]),
        "layer_norm_eps": EPS,
        "projection_dim": width or tower.width,
    }


def preprocessor(look: Look) -> dict[str, Any]:
    """preprocessor_config.json."""
    size = {"height": look.size, "width": look.size} if look.whole else {"shortest_edge": look.short}
    return {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": True for step in ("convert_rgb", "resize", "center_crop", "rescale", "normalize")},
        "size": size,
        "resample": theirs(FILTERS, "filter", look.filter),
        "crop_size": {"height": look.size, "width": look.size},
        "rescale_factor": 1 / 255,
        "image_mean": list(look.mean),
        "image_std": list(look.std),
    }


def open_clip_config(system: ClipSystem) -> dict[str, Any]:
    """open_clip_config.json of a CLIP with both towers."""
    text, image = system.text.transformer, system.image
    acts = {text.arguments["act"], "relu" if isinstance(image, ClipResNet) else image.arguments["act"]} - {"relu"}
    if not acts < {"gelu", "quick_gelu"}:
        raise Problem(f"activations {', '.join(sorted(acts))}: open_clip has gelu, or quick_gelu, in both towers")
    made = text.arguments
    words = {"context_length": made["length"], "vocab_size": made["vocabulary"], "width": text.width}
    look = {"mean": list(system.look.mean), "std": list(system.look.std)}
    if system.look.filter != "bicubic":
        look["interpolation"] = system.look.filter
    if system.look.whole:
        look["resize_mode"] = "squash"
    model = {
        "embed_dim": system.text_projection.out_features,
        "quick_gelu": acts == {"quick_gelu"},
        "vision_cfg": _open_clip_resnet(image) if isinstance(image, ClipResNet) else _open_clip_vision(image),
        "text_cfg": {**words, "heads": made["heads"], "layers": len(text.blocks), **_mlp_ratio(text)},
    }
    return {"model_cfg": model, "preprocess_cfg": look}


def _open_clip_vision(tower: VisionTransformer) -> dict[str, Any]:
    made = tower.arguments
    head = {} if tower.width == 64 * made["heads"] else {"head_width": tower.width // made["heads"]}
    size = {"image_size": made["size"], "layers": len(tower.blocks), "width": tower.width}
    return {**size, **head, "patch_size": made["patch"], **_mlp_ratio(tower)}


def _open_clip_resnet(tower: ClipResNet) -> dict[str, Any]:
    made = tower.arguments
    head = 32 * made["width"] // made["heads"]
    size = {"image_size": made["size"], "layers": list(made["layers"]), "width": made["width"]}
    return {**size, **({} if head == 64 else {"head_width": head}), "patch_size": None}


def _mlp_ratio(tower: TextTransformer | VisionTransformer) -> dict[str, float]:
    """Such that int(width · mlp_ratio), which open_clip takes, is the hidden width; nothing where that is 4."""
    hidden: int = tower.blocks[0].mlp.fc1.out_features
    ratio = hidden / tower.width
    exact = ratio if int(tower.width * ratio) == hidden else math.nextafter(ratio, math.inf)
    return {} if exact == 4 else {"mlp_ratio": exact}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file. Raises Problem where the path cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from None


def write_tokenizer(tokenizer: ClipTokenizer, folder: Path, pad: int, length: int = 77) -> None:
    """vocab.json, merges.txt and two small configurations, which every transformers since 4 reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.bpe.model.save(str(folder))
    token = tokenizer.bpe.id_to_token
    special = {
        "bos_token": token(tokenizer.start),
        "eos_token": token(tokenizer.end),
        "unk_token": token(tokenizer.end),
    }
    special["pad_token"] = token(pad)
    write_json(folder / "special_tokens_map.json", special)
    kind = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length}
    write_json(folder / "tokenizer_config.json", {**kind, "add_prefix_space": False, "do_lower_case": True, **special})
