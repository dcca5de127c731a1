"""load: a bundle of ours or a checkpoint of somebody else's, recognised by its content.

A family is a module of this room that says what it knows:

    OPTIONS                      {name: what it says}, of what may be told
    claims(found) -> bool        whether what was found is its; looks at keys and configurations only
    read(found, dtype, told)     a part of ours, made of it

What a file does not say is told by the caller, else read from the yaml or json beside it, else a documented default
that is noted (`Found.ask`), and never guessed in silence.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import Assumed, Problem, unknown
from . import bundle, files

# In this order: the first that claims what was found reads it.
FAMILIES: list[str] = ["stable", "vae", "clip", "guided", "glide", "ddpm", "dit", "karlo", "deepfloyd"]

CONFIGS = ("model_index.json", "open_clip_config.json", "config.json")  # a folder is what the first of these says
STANDARD = ("diffusion_pytorch_model", "model", "pytorch_model", "open_clip")  # names of files that have one beside

# What is known by its keys and not read here: (what a key of every such file contains, what it is).
OTHERS = [
    ("lora_", "a LoRA: it goes onto a model (--lora FILE) and is none"),
    (".lora", "a LoRA: it goes onto a model (--lora FILE) and is none"),
    *[
        (mark, "a textual-inversion embedding: it goes onto a model (--embedding FILE) and is none")
        for mark in ("emb_params", "string_to_param", "<")
    ],
    ("conditioner.embedders.1.", "a Stable Diffusion XL checkpoint, which Phosphene does not read"),
    ("conditioner.embedders.0.", "a checkpoint of the Stable Diffusion XL family, which Phosphene does not read"),
    ("joint_blocks.", "a Stable Diffusion 3 checkpoint, which Phosphene does not read"),
    ("double_blocks.", "a Flux checkpoint, which Phosphene does not read"),
    ("control_model.", "a ControlNet, which Phosphene does not read"),
    ("controlnet_cond_embedding.", "a ControlNet, which Phosphene does not read"),
]


@dataclass
class Found:
    """What lies at a path: a folder with its json files, or a file of tensors.

    config   model_index.json or config.json of a folder, else the json or yaml beside a file, else {}
    tensors  of a file; None for a folder
    told     what the caller says that the file does not
    assumed  {name: value} of what nothing said, and what was taken
    notes    what else the user should know, a line each
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    tensors: files.Tensors | None = None
    told: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The class that its configuration names: StableDiffusionPipeline, UNet2DConditionModel, CLIPModel, or ""."""
        named = self.config.get("_class_name") or self.config.get("architectures") or ""
        return str(named[0] if isinstance(named, list) and named else named)

    def has(self, *keys: str) -> bool:
        """Whether the file has all of these tensors."""
        return self.tensors is not None and all(key in self.tensors for key in keys)

    def has_under(self, prefix: str) -> bool:
        """Whether the file has a tensor whose key begins like this."""
        return self.tensors is not None and any(key.startswith(prefix) for key in self.tensors)

    def weights(self) -> files.Tensors:
        """The tensors: of the file, or of the weight file in the folder, which is opened now."""
        if self.tensors is None:
            self.tensors = files.open_tensors(files.weight_file(self.path))
        return self.tensors

    def part(self, folder: str) -> Found:
        """A folder inside this one, whose notes are this one's. Raises Problem where it is not there."""
        inside = look(self.path / folder)
        if inside is None:
            raise Problem(f"{self.path / folder} is a bundle of ours inside of a foreign folder")
        inside.told, inside.assumed, inside.notes = self.told, self.assumed, self.notes
        return inside

    def ask(self, name: str, default: Any) -> Any:
        """What the caller tells of `name`, else the default, noted: the user reads what was taken."""
        return self.told[name] if name in self.told else self.assume(name, default)

    def assume(self, name: str, value: Any) -> Any:
        """`value`, noted: the user is told what was taken and how to say otherwise."""
        self.assumed[name] = value
        return value


def load(path_or_name: str | Path, dtype: torch.dtype | None = None, **told: Any) -> Any:
    """The system, or part, in a bundle, a file or a folder: ours or one of the FAMILIES; on the CPU, in eval mode.

    dtype  of the denoisers' networks; None is float32
    told   what the file does not say, such as predicts="v"; an option that the family does not know is a Problem
    What nothing says and a default is taken for is warned of (`Assumed`).
    Raises Problem, one line, for whatever is wrong with the file.
    """
    found = look(path_or_name)
    if found is None:
        if set(told) - {"vae"}:
            raise unknown("option of a bundle, which says all else itself", min(set(told) - {"vae"}), ["vae"])
        whole = bundle.load(path_or_name, dtype)
        return replaced(whole, told["vae"]) if "vae" in told else whole
    family = family_of(found)
    found.told = check_told(told, family)
    part = family.read(found, dtype or torch.float32, told)
    for note in remarks(found):
        warnings.warn(note, Assumed, stacklevel=2)
    return part


def check_told(told: Mapping[str, Any], family: ModuleType) -> dict[str, Any]:
    """What is told, once the family knows all of it. Raises Problem for what it does not know."""
    for name in told:
        if name not in family.OPTIONS:
            kind = family.__name__.rpartition(".")[2]
            raise unknown(f"option of a checkpoint of the family {kind!r}", name, family.OPTIONS)
    return dict(told)


def remarks(found: Found) -> list[str]:
    """What the user should know of how a checkpoint was read, a line each."""
    name = found.path.name
    return [
        f"{name} does not say {what}: taken is {value}; {what}=… says otherwise"
        for what, value in found.assumed.items()
    ] + found.notes


def look(path_or_name: str | Path) -> Found | None:
    """What lies at a path, with nothing read but keys and configurations; None for a bundle of ours.

    Raises Problem where nothing is there, or nothing that could hold weights.
    """
    path = Path(path_or_name)
    if str(path_or_name) in bundle.shipped():
        return None
    if path.name in CONFIGS and path.is_file():
        path = path.parent
    if os.path.isdir(path):
        return _folder(path)
    path = bundle.find(path_or_name)  # a Problem for what is neither a path nor a name
    if bundle.is_bundle(path):
        return None
    tensors = files.open_tensors(path)
    return Found(path, _beside(path), tensors)


def family_of(found: Found) -> ModuleType:
    """The module that claims what was found. Raises Problem, which says what it is where that is known."""
    for mark, what in OTHERS:
        if found.tensors is not None and any(mark in key for key in found.tensors):
            raise Problem(f"{found.path} is {what}")
    for name in FAMILIES:
        family = importlib.import_module(f"phosphene.weights.{name}")
        if family.claims(found):
            return family
    if found.kind:
        hint = ", but as a text encoder (text/hugging.py)" if found.kind.endswith("EncoderModel") else ""
        raise Problem(f"{found.path} is a {found.kind}, which Phosphene does not read{hint}")
    if found.has("conv_in.weight") and found.has_under("down_blocks."):
        raise Problem(f"{found.path} is a network of diffusers, and the config.json that belongs beside it is not")
    some = ", ".join(sorted(found.tensors)[:3]) if found.tensors else "no tensors"
    raise Problem(f"{found.path} is a checkpoint of no kind that is known here; it holds {some} …")


def replaced(system: Any, path: str | Path) -> Any:
    """The system with another autoencoder for good, that at `path` (vae.in_place_of)."""
    from .vae import in_place_of

    system.autoencoder = system.arguments["autoencoder"] = in_place_of(system, path).requires_grad_(False)
    return system


def words_told(words: Iterable[str]) -> dict[str, Any]:
    """["predicts=v", "heads=5,10", "ema=true"] → what `load` is told. Raises Problem where a word has no "="."""
    told: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise Problem(f"{word!r}: NAME=VALUE was expected, such as predicts=v")
        values = [_plain(v) for v in value.split(",")]
        told[name] = values[0] if len(values) == 1 else values
    return told


def _plain(word: str) -> Any:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _folder(path: Path) -> Found | None:
    for name in CONFIGS:
        if (path / name).is_file():
            return Found(path, files.read_json(path / name))
    if (path / "model.safetensors").is_file():  # a run's
        return look(path / "model.safetensors")
    wanted = f"none of {', '.join(CONFIGS)} and model.safetensors is in it"
    raise Problem(f"{path} is a folder without a model: {wanted}")


def _beside(path: Path) -> dict[str, Any]:
    """What the yaml or json of the same name says, or the config.json beside a file of a standard name; else {}."""
    for suffix in (".yaml", ".yml"):
        if path.with_suffix(suffix).is_file():
            return _yaml(path.with_suffix(suffix))
    if path.suffix != ".json" and path.with_suffix(".json").is_file():
        return files.read_json(path.with_suffix(".json"))
    if path.name.startswith(STANDARD):
        for name in CONFIGS[1:]:
            if (path.parent / name).is_file():
                return files.read_json(path.parent / name)
    return {}


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        said = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise Problem(f"{path} is not YAML that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict):
        raise Problem(f"{path}: a YAML {type(said).__name__}, names with values were expected")
    return said
