"""LoRA files, read and written in the three ways to name the layers that they change.

kohya's (lora_unet_…, and the web UI's), diffusers' and PEFT's (unet.….lora_A), and ours: a system's module paths, which
name the layers of any system.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Problem
from . import files
from .low_rank import FOLDER_NAMES, WIDTHS, Lora, LowRank, kohya_name, names, our_name
from .save import narrowed
from .stored import short

SUFFIXES = {  # what follows a layer's name in a key -> what it is
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
}
OLD_NAMES = {  # what stood before "_lora.down" in diffusers' attention processors -> the layer they meant
    **{f".processor.to_{q}": f".to_{q}" for q in "qkv"},
    ".processor.to_out": ".to_out.0",
    **{f".self_attn.to_{q}": f".self_attn.{q}_proj" for q in "qkv"},
    ".self_attn.to_out": ".self_attn.out_proj",
}
UNREAD = ("use_dora", "lora_bias", "bias", "modules_to_save", "fan_in_fan_out")  # settings of PEFT's
OTHER_KINDS = {  # what only adapters of other kinds hold in a key, to its end or a dot -> their name
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".on_input.": "IA3",
    ".diff.": "a full difference of weights",
    ".diff_b.": "a full difference of weights",
    ".lora_embedding_": "LoRA on an embedding",
    ".lora_B.bias.": "LoRA with biases",
    ".lora_up.bias.": "LoRA with biases",
}


# Reading ------------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Lora:
    """The LoRA in a file, or in a folder as PEFT and diffusers write it.

    alpha is the file's, else its metadata's, else r; that is noted. Raises Problem for adapters of other kinds (DoRA,
    LoHa, LoKr, …) by name, and for keys and shapes that make no LoRA.
    """
    path = file(Path(path))
    tensors = files.open_tensors(path)
    config = _config(path, tensors.metadata)
    found = Lora({}, dict(tensors.metadata), path)
    for name, parts in _grouped(tensors, path).items():
        missing = sorted({"down", "up"} - parts.keys())
        if missing:
            raise Problem(f"{path}: {name} has no {missing[0]} matrix")
        _check(path, name, {what: tensors.shapes[key] for what, key in parts.items()})
        rank = tensors.shapes[parts["up"]][1]
        alpha = _number(path, parts["alpha"], tensors) if "alpha" in parts else _configured(path, config, name, rank)
        if alpha is None and not found.notes:
            found.notes.append(f"{path.name} does not say alpha; taken: alpha = r, a scale of 1")
        taken = {what: tensors[key] for what, key in parts.items() if what != "alpha"}
        if not all(t.is_floating_point() for t in taken.values()):
            raise Problem(f"{path}: {name} is stored in whole numbers, which are no LoRA's")
        if our_name(name) in found.layers:
            raise Problem(f"{path}: {name} is there under a second name")
        found.layers[our_name(name)] = LowRank(alpha=float(rank) if alpha is None else alpha, **taken)
    return found


def is_lora(path: str | Path) -> bool:
    """Whether what lies there is a LoRA, or an adapter of another kind that `read` refuses by name: by its keys."""
    path = Path(path)
    if path.is_dir():
        return any((path / f"{name}{end}").is_file() for name in FOLDER_NAMES for end in (".safetensors", ".bin"))
    ends = tuple(end for end in SUFFIXES if end != ".alpha")
    return path.is_file() and any(
        key.endswith(ends) or any(mark in key for mark in (".hada_", ".lokr_", ".oft_"))
        for key in files.open_tensors(path)
    )


def file(path: Path) -> Path:
    """The file itself, or the one in the folder that PEFT or diffusers wrote. Raises Problem where there is none."""
    return files.weight_file(path, FOLDER_NAMES) if path.is_dir() else path


def _grouped(tensors: files.Tensors, path: Path) -> dict[str, dict[str, str]]:
    """{layer's name: {"down" | "up" | "mid" | "alpha": key}}."""
    found: dict[str, dict[str, str]] = {}
    for key in tensors:
        kind = next((kind for part, kind in OTHER_KINDS.items() if part in f"{key}."), None)
        suffix = next((s for s in SUFFIXES if key.endswith(s)), None)
        if kind or not suffix:
            raise Problem(f"{path} holds {key}: {f'{kind} is not read' if kind else 'no part of a LoRA'}")
        name = key.removesuffix(suffix)
        if suffix.startswith("_"):
            old = next((old for old in OLD_NAMES if name.endswith(old)), "")
            name = name.removesuffix(old) + OLD_NAMES.get(old, "")
        if SUFFIXES[suffix] in found.setdefault(name, {}):
            raise Problem(f"{path}: {key} is there under a second name")
        found[name][SUFFIXES[suffix]] = key
    if not found:
        raise Problem(f"{path} holds no tensors, so no LoRA")
    return found


def _check(path: Path, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Problem where down, mid and up do not make one product."""
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    inner = down[0] if mid is None else mid[0] if len(mid) == 4 and mid[1] == down[0] else None
    sound = len(down) in (2, 4) and len(up) in (2, 4) and math.prod(up[2:]) == 1 and up[1] == inner and inner
    if not sound or (mid is not None and math.prod(down[2:]) != 1):
        between = "" if mid is None else f", mid {list(mid)}"
        raise Problem(f"{path}: {name} has down {list(down)}{between} and up {list(up)}, which make no product")


def _number(path: Path, key: str, tensors: files.Tensors) -> float:
    if math.prod(tensors.shapes[key]) != 1:
        raise Problem(f"{path}: {key} is {list(tensors.shapes[key])}, one number was expected")
    return _finite(path, key, float(tensors[key]))


def _finite(path: Path, what: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Problem(f"{path}: {what} is {short(value)}, a number was expected")
    return float(value)


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings: of a folder's adapter_config.json, else what diffusers keeps in a file's metadata, else {}."""
    beside = path.with_name("adapter_config.json")
    if path.stem == "adapter_model" and beside.is_file():
        config: Any = files.read_json(beside)
    else:
        try:
            config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise Problem(f"{path}: its lora_adapter_metadata is no JSON object")
    if config.get("peft_type", "LORA") != "LORA":
        raise Problem(f"{path} is an adapter of the kind {short(config['peft_type'])}; LORA is what is read")
    for key, value in config.items():
        if key.rpartition(".")[2] in UNREAD and value not in (None, False, "none", [], {}):
            raise Problem(f"{path}: its setting {short(key)} is {short(value)}, which is not read")
    return config


def _configured(path: Path, config: Mapping[str, Any], name: str, rank: int) -> float | None:
    """alpha of a layer from PEFT's settings, whose keys may have the network's name in front; None if they lack it."""
    network, _, rest = name.removeprefix("base_model.model.").partition(".")
    front, layer = (f"{network}.", rest) if f"{network}.lora_alpha" in config else ("", name)
    if front + "lora_alpha" not in config:
        return None
    alpha, patterns = config[front + "lora_alpha"], config.get(front + "alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise Problem(f"{path}: alpha_pattern is no JSON object")
    for pattern, value in patterns.items():
        literal = pattern.removeprefix("^")
        if set(literal) & set("^$*+?()[]{}|\\"):
            raise Problem(
                f"{path}: alpha_pattern {short(pattern)} is a regular expression; a layer's name is what is read"
            )
        if layer == literal or layer.endswith(f".{literal}"):
            alpha = value
    alpha = _finite(path, "lora_alpha", alpha)
    return alpha * math.sqrt(rank) if config.get(front + "use_rslora") else alpha


# Writing ------------------------------------------------------------------------------------------------------------
# Writers of save.py: dtype narrows the numbers; they return what the format cannot hold, in lines.


def write(lora: Lora, path: str | Path, dtype: torch.dtype | None = None) -> list[str]:
    """Our own form: {module path}.lora_down.weight, lora_up, lora_mid and alpha. Names layers of any system."""
    _check_lora(lora, path)
    return _written(path, lora.layers, lora.metadata, dtype)


def write_kohya(lora: Lora, path: str | Path, dtype: torch.dtype | None = None, ones: bool | None = None) -> list[str]:
    """As kohya's scripts and the web UI name it. `ones` and the Problem of `write_peft`."""
    layers = {kohya_name(theirs): low for theirs, low in _theirs(lora, path, ones).items()}
    said = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(low.rank for low in layers.values())),
        "ss_network_alpha": str(max(low.alpha for low in layers.values())),
    }
    if lora.family in WIDTHS.values():
        said["ss_v2"] = str(lora.family == "Stable Diffusion 2")
    return _written(path, layers, said | lora.metadata, dtype)


def write_peft(lora: Lora, path: str | Path, dtype: torch.dtype | None = None, ones: bool | None = None) -> list[str]:
    """As diffusers saves it, in PEFT's names, alpha and rank of every layer in the metadata that it reads.

    ones  whether the projections around the transformers are 1×1 convolutions in the model that it is for; None: they
          are where it is Stable Diffusion 1
    Raises Problem where a layer is none of Stable Diffusion's.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    everything = _theirs(lora, path, ones)
    for network in ("unet.", "text_encoder."):
        layers = {t: low.plain() for t, low in everything.items() if t.startswith(network)}
        for theirs, low in layers.items():
            tensors |= {f"{theirs}.lora_A.weight": low.down, f"{theirs}.lora_B.weight": low.up}
        # transformers 5 leaves out text_model, older ones do not: PEFT takes the end of a name for the name
        said = _settings({t.removeprefix(network).removeprefix("text_model."): low for t, low in layers.items()})
        settings |= {network + key: value for key, value in said.items()}
    metadata = lora.metadata | {"format": "pt", "lora_adapter_metadata": json.dumps(settings, sort_keys=True)}
    files.write_tensors(Path(path), narrowed(tensors, dtype), metadata)
    n = sum(low.mid is not None for low in lora.layers.values())
    return [f"Tucker's form of {n} convolutions, which are multiplied out: the same change, a larger file"] if n else []


def _settings(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """PEFT's settings for these layers of one network: the commonest rank and alpha, and the layers that differ."""
    if not layers:
        return {}
    ranks, alphas = [low.rank for low in layers.values()], [low.alpha for low in layers.values()]
    rank, alpha = max(ranks, key=ranks.count), max(alphas, key=alphas.count)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: low.rank for name, low in layers.items() if low.rank != rank},
        "alpha_pattern": {name: low.alpha for name, low in layers.items() if low.alpha != alpha},
        "target_modules": sorted(layers),
    }


def _theirs(lora: Lora, path: str | Path, ones: bool | None) -> dict[str, LowRank]:
    """{diffusers' module path: LowRank}, as many sides as the layer has there."""
    _check_lora(lora, path)
    called = {ours: theirs for theirs, ours in names().items()}
    ones = lora.family == "Stable Diffusion 1" if ones is None else ones
    layers = {}
    for name, low in lora.layers.items():
        if name not in called:
            raise Problem(f"{lora.name}: {name} is no layer of Stable Diffusion; only --to lora can name it")
        conv = low.down.ndim == 4 or (ones and name.endswith((".attend.proj_in", ".attend.proj_out")))
        sides = (1, 1) if conv else ()
        down = low.down if low.down.ndim == 4 else low.down.reshape(*low.down.shape, *sides)
        layers[called[name]] = replace(low, down=down, up=low.up.reshape(*low.up.shape[:2], *sides))
    return layers


def _check_lora(thing: Any, path: str | Path) -> None:
    if not isinstance(thing, Lora):
        raise Problem(f"{path}: a {type(thing).__name__} is no LoRA, and this is a format of LoRAs")


def _written(
    path: str | Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None
) -> list[str]:
    tensors: dict[str, Tensor] = {}
    for name, low in layers.items():
        parts = {"lora_down.weight": low.down, "lora_up.weight": low.up, "lora_mid.weight": low.mid}
        tensors |= {f"{name}.{what}": part for what, part in parts.items() if part is not None}
        tensors[f"{name}.alpha"] = torch.tensor(low.alpha)
    files.write_tensors(Path(path), narrowed(tensors, dtype), dict(metadata))
    return []
