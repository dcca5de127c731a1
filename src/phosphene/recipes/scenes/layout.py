"""Latent diffusion of scenes that is told where things stand: boxes with labels (scenes.layout), a map (scenes.map)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.recipes.base import Plan, every, recipe, source_of

if TYPE_CHECKING:
    from torch import Tensor

    from phosphene.data.base import Source
    from phosphene.systems.base import System
    from phosphene.text.layout import Layout

OVERLAP = 0.5  # intersection over union from which an object stands in its box


@recipe(autoencoder="scenes.autoencoder")
def layout(
    *,
    data: str = "scenes",
    size: int = 32,
    autoencoder: Path | None = None,
    steps: int = 2000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 64,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """Scenes from layouts: boxes with labels, attended to (Rombach et al. 2022, §4.3.1).

    phosphene train scenes.layout
    phosphene generate "red circle 0.1,0.2,0.5,0.6; blue square 0.6,0.1,0.9,0.4" --model runs/scenes.layout

    autoencoder  a bundle of scenes.autoencoder; trained first where none is given
    width        channels at the latent's full size
    drop         how often the layout is left out
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    from phosphene.data.scenes.told import WORDS
    from phosphene.nets.layers import ScaleShiftResBlock, SpatialTransformer
    from phosphene.nets.unet import UNet
    from phosphene.text.layout import LayoutEncoder

    ae, encoder = autoencoder.autoencoder, LayoutEncoder(WORDS, 2 * width)
    net = UNet(
        ae.channels, ae.channels, (width, 3 * width // 2), 1, (1, 1), head_dim=16, context_dim=encoder.width,
        vector_dim=encoder.width, emb_dim=2 * width, block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    told = dict(size=size, batch=batch, seed=seed, drop=drop, prompts="layout")
    scenes, settings = source_of(data, size=size, n=pictures), dict(steps=steps, lr=lr, seed=seed)
    return _plan(net, encoder, ae, scenes, told, settings, judged)


@recipe(autoencoder="scenes.autoencoder")
def map(
    *,
    data: str = "scenes",
    size: int = 32,
    autoencoder: Path | None = None,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 64,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """Scenes from maps of every pixel's colour, concatenated to x (Rombach et al. 2022, §4.3.2).

    phosphene train scenes.map
    phosphene generate map.png --model runs/scenes.map

    autoencoder  a bundle of scenes.autoencoder; trained first where none is given
    width        channels at the latent's full size
    drop         how often the map is left out
    pictures     how many scenes are drawn to learn from
    judged       of how many pictures the pixels are compared with their maps at the end; 0 is none
    """
    from phosphene.data.scenes.told import LABELS
    from phosphene.nets.layers import ScaleShiftResBlock
    from phosphene.nets.unet import UNet
    from phosphene.text.maps import MapEncoder

    ae, encoder = autoencoder.autoencoder, MapEncoder(LABELS, size // autoencoder.autoencoder.f)
    net = UNet(
        ae.channels + encoder.shown, ae.channels, (width, 3 * width // 2), 1, (0, 1), head_dim=16, emb_dim=2 * width,
        block=ScaleShiftResBlock,
    )  # fmt: skip
    told = dict(size=size, batch=batch, seed=seed, drop=drop, prompts="map")
    scenes, settings = source_of(data, size=size, n=pictures), dict(steps=steps, lr=lr, seed=seed)
    return _plan(net, encoder, ae, scenes, told, settings, judged)


def _plan(net: Any, encoder: Any, ae: Any, scenes: Source, told: dict, settings: dict, judged: int) -> Plan:
    """A latent model of this network and encoder. told: what `Batches` takes."""
    from phosphene.data.batches import Batches, cached
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Flow
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.latent import Latent

    what, size, few = told["prompts"], told["size"], min(judged, 64)
    denoiser = Denoiser(net, Flow(draws="logit_normal", mean=0.4), "flow")
    system = Latent(denoiser, ae, encoder, size, steps=12, guidance=2.0)
    score = {"layout": placed, "map": coloured}[what]
    return Plan(
        system, cached(Batches(scenes, **told), system), {**settings, "score_every": every(settings["steps"], 4)},
        sample=grid_of(prompts_of(what, size, 16)[0]),
        score=(lambda it: {"right": score(it, size, few)[0]}) if judged else None,
        report=lambda it: score(it, size, judged)[1] if judged else [],
        card=f"# scenes.{what}\n\nColoured shapes, told where they stand.",
    )  # fmt: skip


def prompts_of(told: str, size: int, n: int) -> tuple[list, list]:
    """(layouts or maps, the scenes) of n test scenes."""
    from phosphene.data.scenes import Scenes

    source = Scenes(size, n, "test")
    examples = [source[i] for i in range(n)]
    return [source.tells[told](example) for example in examples], [example.meta["objects"] for example in examples]


# Layouts ------------------------------------------------------------------------------------------------------------


def placed(system: System, size: int, n: int) -> tuple[float, list[str]]:
    """(the share of n test layouts whose picture holds them, lines about it). A line each number of objects."""
    from phosphene.data.scenes import wilson
    from phosphene.recipes.grids import made_of

    layouts, _ = prompts_of("layout", size, n)
    pictures = made_of(system, layouts)
    right = [holds(x, it) for x, it in zip(pictures, layouts, strict=True)]
    others = sum(holds(x, it) for x, it in zip(pictures.roll(1, 0), layouts, strict=True)) / n

    def line(what: str, mine: list[bool]) -> str:
        low, high = wilson(sum(mine), len(mine))
        return f"- {what}: {sum(mine) / len(mine):.1%} of {len(mine)} (95 % interval {low:.1%} to {high:.1%})"

    lines = [line("its objects, and no others, in their boxes", right) + f"; another layout's picture {others:.1%}"]
    for k in range(1, 5):
        if mine := [r for r, it in zip(right, layouts, strict=True) if len(it.boxes) == k]:
            lines.append(line(f"layouts of {k}", mine))
    return sum(right) / n, lines


def holds(picture: Any, layout: Layout) -> bool:
    """Whether the exact parser finds in the picture one object a box, with its label, overlapping it by more than ½."""
    from phosphene.data.scenes import parse
    from phosphene.data.scenes.told import box_of

    reading = parse(picture)
    found = [box_of(it) for it in reading.scene or ()]
    return len(found) == len(layout.boxes) and any(
        all(a.label == b.label and a.overlap(b) > OVERLAP for a, b in zip(order, layout.boxes, strict=True))
        for order in permutations(found)
    )


# Maps ---------------------------------------------------------------------------------------------------------------


def coloured(system: System, size: int, n: int) -> tuple[float, list[str]]:
    """(the share of pixels in n pictures that are of their map's colour, lines about it)."""
    from phosphene.data.scenes import Scenes
    from phosphene.recipes.grids import made_of
    from phosphene.recipes.parts import pictures_of
    from phosphene.recipes.scenes.decoders import still_read

    maps, scenes = prompts_of("map", size, n)
    pictures, real = made_of(system, maps), pictures_of(Scenes(size, n, "test"), size)
    same, inked = agreement(pictures, maps)
    best, best_inked = agreement(real, maps)
    other, other_inked = agreement(pictures.roll(1, 0), maps)
    read = still_read(scenes, pictures)
    return same, [
        f"- pixels of their map's colour: {same:.1%}; the scenes themselves {best:.1%}, other maps' {other:.1%}",
        f"- of those that the map says are not white: {inked:.1%}; {best_inked:.1%}, {other_inked:.1%}",
        f"- the exact parser reads the map's scene in {read / n:.1%} of {n}",
    ]


def agreement(pictures: Tensor, maps: Sequence) -> tuple[float, float]:
    """The share of pixels whose nearest colour is their label's: of all, and of those that are not white in the map."""
    import numpy as np
    import torch

    from phosphene.data.scenes import COLOURS

    colours = torch.tensor([(255, 255, 255), *COLOURS.values()]) / 127.5 - 1  # (labels, 3)
    near = torch.cdist(pictures.permute(0, 2, 3, 1).flatten(1, 2).float(), colours).argmin(-1)  # (N, H·W)
    said = torch.from_numpy(np.stack([it.array.ravel() for it in maps]).astype(np.int64))
    same = near == said
    return float(same.float().mean()), float(same[said > 0].float().mean())
