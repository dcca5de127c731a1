"""Low-rank changes of a network's layers, W + alpha/r · up·down (Hu et al. 2021, §4.1), and the layers' names.

Others name the layers of Stable Diffusion by diffusers' module paths, or by these with every dot an underscore
(kohya), so that only a list of all names can tell which it was. Here a layer's name is ours where the tables know it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..nets.layers import SpatialTransformer
from ..nets.unet import UNet
from . import clip, unets
from .tables import Entry, empty

FOLDER_NAMES = ("adapter_model", "pytorch_lora_weights")  # of the file in a folder: PEFT's, diffusers'
NET, TEXT = "denoiser.net.", "encoder.transformer."  # where Stable Diffusion's two networks stand in a system
FAMILIES = (  # parts of names, dots and underscores alike -> whose they are; the first that is found says it
    (("double_blocks_", "single_blocks_", "single_transformer_blocks_"), "Flux"),
    (("joint_blocks_", "transformer_transformer_blocks_"), "Stable Diffusion 3"),
    (("lora_te1_", "lora_te2_", "text_encoder_2_", "_input_blocks_", "_output_blocks_", "_middle_block_"), "SDXL"),
    (("model_layers_", "_h_0_", "decoder_block_"), "a language model"),
)
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # of the text that is attended to


@dataclass(frozen=True)
class LowRank:
    """The change of one layer: ΔW = alpha/r · up·down.

    down (r, in) or (r, in, kh, kw); up (out, r), or with two sides of 1 behind; mid (r, r, kh, kw) between the two
    where down is 1×1 (LoCon's Tucker form).
    """

    down: Tensor
    up: Tensor
    alpha: float
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def plain(self) -> LowRank:
        """The same change without `mid`: the product of two convolutions is one."""
        if self.mid is None:
            return self
        down = torch.einsum("srhw,ri->sihw", self.mid.float(), self.down.float().flatten(1))
        return LowRank(down, self.up, self.alpha)

    def change(self) -> Tensor:
        """ΔW in float32: (out, in) or (out, in, kh, kw)."""
        down = self.plain().down.float()
        return (self.scale * self.up.float().flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:])


@dataclass
class Lora:
    """What a LoRA file holds.

    layers    {module path of ours, or the file's own name where no table knows it: LowRank}
    metadata  as in the file
    path      the file
    notes     what the file does not say, and what was taken
    """

    layers: dict[str, LowRank]
    metadata: dict[str, str] = field(default_factory=dict)
    path: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For messages."""
        return "this LoRA" if self.path is None else self.path.name if self.stem == self.path.stem else self.stem

    @property
    def stem(self) -> str:
        return "lora" if self.path is None else called(self.path)

    @property
    def family(self) -> str:
        """Whose LoRA this seems to be, from its names, then from the width of the text that its model attends to."""
        names = [name.replace(".", "_") for name in self.layers]
        for parts, family in FAMILIES:
            if any(part in name for part in parts for name in names):
                return family
        widths = [low.down.shape[1] for name, low in self.layers.items() if name.endswith("attn2.to_k")]
        widths += [
            low.down.shape[1] for name, low in self.layers.items() if name.endswith("attn.to_k") and TEXT in name
        ]
        if widths:
            return WIDTHS.get(widths[0], f"a model whose text is {widths[0]} wide")
        return "a model of another shape"


# Names --------------------------------------------------------------------------------------------------------------


@functools.cache
def names() -> dict[str, str]:
    """{diffusers' module path: ours} of all layers that a Stable Diffusion can have: those of one larger than all."""
    levels = 5
    channels = [32 * (i + 1) for i in range(levels)]  # no two alike: every shortcut is there
    largest = empty(lambda: UNet(4, 4, channels, 4, [2] * levels, context_dim=32, attend=SpatialTransformer))
    unet = _modules(unets.diffusers(largest, unets.transformer()))
    text = _modules(clip.text_entries_hf(48))
    return {
        **{f"unet.{theirs}": NET + ours for theirs, ours in unet.items()},
        **{f"text_encoder.text_model.{theirs}": TEXT + ours for theirs, ours in text.items()},
    }


def _modules(entries: list[Entry]) -> dict[str, str]:
    """{their module: ours} of the layers whose weights are one for one."""
    end = ".weight"
    pairs = ((e.theirs, e.ours[0]) for e in entries if len(e.ours) == 1 and e.theirs.endswith(end))
    return {theirs.removesuffix(end): ours.removesuffix(end) for theirs, ours in pairs}


@functools.cache
def kohya_names() -> dict[str, str]:
    """{kohya's name: ours}."""
    return {kohya_name(theirs): ours for theirs, ours in names().items()}


def kohya_name(theirs: str) -> str:
    """diffusers' module path → kohya's name."""
    part, _, rest = theirs.partition(".")
    return f"lora_{'te' if part == 'text_encoder' else part}_{rest.replace('.', '_')}"


def our_name(name: str) -> str:
    """A layer's name in a file → our module path, or the name itself where no table knows it."""
    if name in kohya_names():
        return kohya_names()[name]
    name = name.removeprefix("base_model.model.")
    bare = name.removeprefix("text_encoder.").removeprefix("text_model.")  # transformers 5 leaves out text_model
    for known in (name, f"unet.{name}", f"text_encoder.text_model.{bare}"):
        if known in names():
            return names()[known]
    return name


def called(path: Path) -> str:
    """What a LoRA is called: its file's stem, or its folder's name where all files are called the same."""
    return path.parent.name if path.stem in FOLDER_NAMES else path.stem
