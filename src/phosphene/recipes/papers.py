"""The networks of the papers at the papers' sizes, to be counted: built without numbers, on the meta device.

Each is what a recipe trains small: the same classes, wider. `counted(PAPERS["ddpm"])` is its parameters in millions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.nets.joint import ImagenCrossAttention2d, ImagenJointAttention2d, JointAttention2d
from phosphene.nets.layers import (
    AddedTimeEmbedding,
    Conventions,
    ResDownsample,
    ResUpsample,
    ScaleShiftResBlock,
    SelfAttention2d,
    SpatialTransformer,
)
from phosphene.nets.prior import Prior
from phosphene.nets.transformer import TextTransformer
from phosphene.nets.unet import UNet
from phosphene.text.encoders import ClassEncoder
from phosphene.text.glide import GlideEncoder
from phosphene.text.unclip import UnclipHead
from phosphene.weights.tables import empty

GROUPS = Conventions(groups=32)
ADM = dict(block=ScaleShiftResBlock, down=ResDownsample, up=ResUpsample, head_dim=64, how=GROUPS)


@dataclass(frozen=True)
class Paper:
    """A network of a paper.

    what     its name there; where: paper and place
    millions parameters that the paper states
    build    makes it: a module, or several that the paper counts together
    choice   what the paper does not say and was chosen here, where the count is more than 5 % from the paper's
    """

    what: str
    where: str
    millions: float
    build: Callable[[], nn.Module | list[nn.Module]]
    choice: str = ""


def counted(paper: Paper) -> float:
    """Its parameters, in millions."""
    made = empty(lambda: nn.ModuleList(it if isinstance(it := paper.build(), list) else [it]))
    return sum(p.numel() for p in made.parameters()) / 1e6


def ddpm(channels: tuple[int, ...], attention: tuple[int, ...]) -> UNet:
    """DDPM's U-Net (Ho et al. 2020, appendix B): two blocks a level."""
    return UNet(3, 3, channels, 2, attention, how=GROUPS)


def adm(width: int, multiples: tuple[int, ...], depth: int, attention: tuple[int, ...], given: int = 3):
    """ADM's U-Net with the labels of ImageNet (Dhariwal & Nichol 2021, appendix I); given=6 is an upsampler's."""
    channels = tuple(width * m for m in multiples)
    return [
        UNet(given, 6, channels, depth, attention, vector_dim=4 * width, **ADM),
        ClassEncoder(1000, 4 * width, null=False),
    ]


def glide_base() -> UNet:
    """GLIDE's U-Net (Nichol et al. 2021, §4): ADM's for 64×64 of 512 channels, told words."""
    words = dict(attend=JointAttention2d, context_dim=2048, vector_dim=2048)
    return UNet(3, 6, (512, 1024, 1536, 2048), 3, (0, 1, 1, 1), **words, **ADM)


def glide_upsampler(layers: int) -> list[nn.Module]:
    """GLIDE's second stage (there, §4 and appendix): ADM's upsampler of 384 channels, and words of width 1024."""
    words = dict(attend=JointAttention2d, context_dim=1024, vector_dim=1536)
    net = UNet(6, 6, (384, 384, 768, 768, 1536, 1536), 2, (0, 0, 0, 1, 1, 1), **words, **ADM)
    return [net, glide_text(1024, layers, 1536)]


def glide_text(width: int, layers: int, emb_dim: int) -> GlideEncoder:
    """GLIDE's text transformer: 128 tokens, heads of 64 channels, GPT-2's 50,257 tokens."""
    return GlideEncoder(TextTransformer(50257, width, layers, width // 64, 128), emb_dim)


def unclip_decoder() -> list[nn.Module]:
    """DALL·E 2's decoder (Ramesh et al. 2022, appendix C): GLIDE's base and words, and what tells it z_i twice."""
    return [glide_base(), glide_text(2048, 24, 2048), UnclipHead(1024, 2048, 2048, text_dim=2048)]


def unclip_upsampler(width: int, multiples: tuple[int, ...], depth: int, attention: tuple[int, ...] = ()) -> UNet:
    """DALL·E 2's upsamplers (there): ADM's blocks, told nothing but the small picture, and no attention."""
    channels = tuple(width * m for m in multiples)
    attend = SelfAttention2d if attention else [*[SelfAttention2d] * len(channels), None]
    return UNet(6, 3, channels, depth, attention or None, attend=attend, **ADM)


def imagen_base(context_dim: int = 512) -> UNet:
    """Imagen's base (Saharia et al. 2022, appendix F.1): ADM's of 512 channels, told T5's states at this width."""
    words = dict(attend=ImagenJointAttention2d, context_dim=context_dim, vector_dim=2048, time=AddedTimeEmbedding)
    return UNet(3, 3, (512, 1024, 1536, 2048), 3, (0, 1, 1, 1), **words, **ADM)


def imagen_upscaler(every: bool, attend: type) -> EfficientUNet:
    """Imagen's super-resolution (there, F.2 and F.3): 8 heads on the lowest level, words at a width of 512."""
    return EfficientUNet(every=every, attend=attend, head_dim=128, context_dim=512, vector_dim=512, how=GROUPS)


def stable(context_dim: int, head_dim: int | tuple[int, ...]) -> UNet:
    """Stable Diffusion's U-Net."""
    told = dict(head_dim=head_dim, context_dim=context_dim, attend=SpatialTransformer, how=GROUPS)
    return UNet(4, 4, (320, 640, 1280, 1280), 2, (1, 1, 1, 0), **told)


PAPERS: dict[str, Paper] = {
    "ddpm": Paper(
        "DDPM, CIFAR-10", "Ho et al. 2020, appendix B", 35.7, lambda: ddpm((128, 256, 256, 256), (0, 1, 0, 0))
    ),
    "ddpm-256": Paper(
        "DDPM, LSUN and CelebA-HQ 256×256", "Ho et al. 2020, appendix B", 114,
        lambda: ddpm((128, 128, 256, 256, 512, 512), (0, 0, 0, 0, 1, 0)),
    ),
    "adm-64": Paper(
        "ADM, ImageNet 64×64", "Dhariwal & Nichol 2021, appendix I", 296,
        lambda: adm(192, (1, 2, 3, 4), 3, (0, 1, 1, 1)),
    ),
    "adm-128": Paper(
        "ADM, ImageNet 128×128", "Dhariwal & Nichol 2021, appendix I", 422,
        lambda: adm(256, (1, 1, 2, 3, 4), 2, (0, 0, 1, 1, 1)),
    ),
    "adm-256": Paper(
        "ADM, ImageNet 256×256", "Dhariwal & Nichol 2021, appendix I", 554,
        lambda: adm(256, (1, 1, 2, 2, 4, 4), 2, (0, 0, 0, 1, 1, 1)),
    ),
    "adm-upsampler": Paper(
        "ADM's upsampler, 64 → 256", "Dhariwal & Nichol 2021, appendix I", 312,
        lambda: adm(192, (1, 1, 2, 2, 4, 4), 2, (0, 0, 0, 1, 1, 1), given=6),
    ),
    "glide": Paper("GLIDE, the visual part", "Nichol et al. 2021, §4", 2300, glide_base),
    "glide-text": Paper(
        "GLIDE, the text transformer", "Nichol et al. 2021, §4", 1200, lambda: glide_text(2048, 24, 2048),
        "with the 103 M of GPT-2's 50,257 embeddings, which the paper's 1.2 B seem to leave out",
    ),
    "glide-upsampler": Paper(
        "GLIDE's upsampler, with its text transformer", "Nichol et al. 2021, §4", 1500, lambda: glide_upsampler(24),
        "24 layers of text as in the base: the paper gives their width alone; 16 layers would make 1,543 M",
    ),
    "unclip-prior": Paper(
        "DALL·E 2's diffusion prior", "Ramesh et al. 2022, §2.2 and appendix C", 1000,
        lambda: Prior(1024, 2048, 20, 32, 256),
        "20 layers of width 2,048, as karlo's prior has; 24 would make 1,226 M",
    ),
    "unclip-decoder": Paper(
        "DALL·E 2's decoder, with its text transformer", "Ramesh et al. 2022, appendix C", 3500, unclip_decoder
    ),
    "unclip-256": Paper(
        "DALL·E 2's upsampler, 64 → 256", "Ramesh et al. 2022, appendix C", 700,
        lambda: unclip_upsampler(320, (1, 2, 3, 4), 3),
    ),
    "unclip-1024": Paper(
        "DALL·E 2's upsampler, 256 → 1024", "Ramesh et al. 2022, appendix C", 300,
        lambda: unclip_upsampler(192, (1, 1, 2, 2, 4, 4), 2),
        "convolutions alone, as the text has it; with the attention of ADM's upsampler of these channels, 311 M",
    ),
    "imagen": Paper(
        "Imagen's base", "Saharia et al. 2022, appendix F.1", 2000, imagen_base,
        "T5's states brought from 4096 to 512 before they are attended to; the paper does not say, and as they are it "
        "would be 2,379 M",
    ),
    "imagen-256": Paper(
        "Imagen's 64 → 256", "Saharia et al. 2022, appendix F.2", 600,
        lambda: imagen_upscaler(True, ImagenJointAttention2d),
        "a skip connection from every block, concatenated: the paper's two upsamplers differ in 200 M, and in what it "
        "says of them by an attention alone",
    ),
    "imagen-1024": Paper(
        "Imagen's 256 → 1024", "Saharia et al. 2022, appendix F.3", 400,
        lambda: imagen_upscaler(False, ImagenCrossAttention2d),
        "a skip connection from every level, added, as in its figure A.29; the time scales and shifts in every block, "
        "28 M, where figure A.28 tells it once a level",
    ),
    "stable-diffusion": Paper(
        "Stable Diffusion 1's U-Net", "Rombach et al. 2022, model card of v1-4", 860,
        lambda: stable(768, (40, 80, 160, 160)),
    ),
    "stable-diffusion-2": Paper("Stable Diffusion 2's U-Net", "model card of v2", 865, lambda: stable(1024, 64)),
}  # fmt: skip


def table() -> list[str]:
    """docs/lineage.md's table of parameters, as lines of Markdown."""
    lines = ["| network | the paper | here | |", "|---|---|---|---|"]
    for paper in PAPERS.values():
        here = counted(paper)
        note = f"{here / paper.millions - 1:+.1%}" + (f": {paper.choice}" if paper.choice else "")
        lines.append(f"| {paper.what} ({paper.where}) | {paper.millions:,g} M | {here:,.1f} M | {note} |")
    return lines
