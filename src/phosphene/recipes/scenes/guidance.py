"""Two judges of noisy pictures of one object, which guide GLIDE's base (scenes.glide).

They see what it sees: x_t of scenes of 32×32 pixels reduced to 16×16, on its schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe, source_of

if TYPE_CHECKING:
    from torch import Tensor

    from phosphene.metrics.interval import Interval

DATA = "scenes:objects=1-1"


@recipe()
def classifier(
    *,
    data: str = DATA,
    size: int = 16,
    steps: int = 1200,
    batch: int = 128,
    lr: float = 1e-3,
    width: int = 64,
    pictures: int = 30_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """A classifier of noisy scenes of one object into the 43 pairs of colour and shape that are trained.

    phosphene train scenes.classifier
    phosphene generate "a red circle" --model runs/scenes.glide_upscale --guidance 0 --guide runs/scenes.classifier:3

    width     channels of the first level; the second has twice as many
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" it has to classify at the end; 0 is none
    """
    from phosphene.diffusion.schedule import Cosine
    from phosphene.systems.classifier import Classifier

    classes = pairs()
    system = Classifier(_tower(len(classes), size, width), Cosine(), classes)
    return _judge(system, data, size, batch, steps, lr, pictures, judged, seed, "# scenes.classifier")


def pairs() -> list[list[str]]:
    """What the seen pairs of colour and shape are called: in English, and in Chinese in two words."""
    from phosphene.data.scenes import SEEN
    from phosphene.data.scenes.words import COLOURS_ZH, SHAPES_EN, SHAPES_ZH

    return [[f"{colour} {SHAPES_EN[shape]}", f"{COLOURS_ZH[colour]} {SHAPES_ZH[shape]}"] for colour, shape in SEEN]


@recipe(clip="scenes.clip")
def clip_noised(
    *,
    data: str = DATA,
    size: int = 16,
    clip: Path | None = None,
    steps: int = 1200,
    batch: int = 128,
    lr: float = 1e-3,
    width: int = 64,
    pictures: int = 30_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """CLIP of noisy scenes of one object: GLIDE's guide.

    phosphene train scenes.clip_noised
    phosphene generate "a red circle" --model runs/scenes.glide_upscale --guidance 0 --guide runs/scenes.clip_noised:3

    clip      a bundle of scenes.clip, whose text encoder it begins with; trained first where none is given
    width     channels of the picture tower's first level; the second has twice as many
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" it has to name at the end; 0 is none
    """
    from phosphene.diffusion.schedule import Cosine
    from phosphene.systems.clip_noised import NoisedClip

    system = NoisedClip(clip.text, _tower(clip.text.width, size, width), Cosine())
    return _judge(system, data, size, batch, steps, lr, pictures, judged, seed, "# scenes.clip_noised")


def _tower(numbers: int, size: int, width: int):
    """Half a U-Net that makes so many numbers of a noisy picture."""
    from phosphene.nets.classifier import NoisyClassifier

    return NoisyClassifier(3, numbers, size, (width, 2 * width), 1, (0, 1), width // 2)


def _judge(system, data, size, batch, steps, lr, pictures, judged, seed, card) -> Plan:
    """The plan of a judge of noisy pictures; how often it is right, at several levels of noise, is its report."""
    from phosphene.recipes.cascade import Reduced, plan_of

    source = Reduced(source_of(data, size=2 * size, n=pictures), size)
    held = held_out(size, judged) if judged else None
    some = None if held is None else (held[0][:200], held[1][:200])
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed, score_every=every(steps))
    return plan_of(
        system, source, size, batch, settings, drop=0.0, card=card,
        score=None if some is None else lambda it: {f"right at {t}": right(it, *some, t).value for t in (0.2, 0.6)},
        report=lambda it: [] if held is None else told_at(it, *held),
    )  # fmt: skip


def held_out(size: int, n: int) -> tuple[Tensor, list[str]]:
    """n test scenes of one object as the judges see them, (n, 3, size, size), and what is said of each."""
    from phosphene.recipes.cascade import reduced
    from phosphene.recipes.scenes.shared import one_objects

    pictures, said = one_objects(2 * size, n, "en")
    return reduced(pictures, size), said


LEVELS = (0.001, 0.2, 0.4, 0.6, 0.8, 0.9)


def told_at(system, pictures: Tensor, said: Sequence[str]) -> list[str]:
    """How often a judge of noisy pictures names the right pair of colour and shape, a line a level of noise."""
    lines = []
    for t in LEVELS:
        rate, low, high = right(system, pictures, said, t)
        about = f"{rate:.1%} of {len(said)} held-out pictures (95 % interval {low:.1%} to {high:.1%})"
        lines.append(f"- colour and shape at t = {t:g}, {system.schedule(t).alpha:.3f} of the signal: right {about}")
    return lines


def right(system, pictures: Tensor, said: Sequence[str], t: float, seed: int = 0) -> Interval:
    """The share of pictures (N, 3, H, W), noised up to t, whose own (colour, shape) is likeliest of all that are told.

    Both kinds are asked in the same way: which of the 43 names has the highest log_prob.
    """
    import torch

    from phosphene.data.scenes import SEEN, read, wilson
    from phosphene.metrics.interval import Interval

    generator = torch.Generator().manual_seed(seed)
    names = [f"a {colour} {shape}" for colour, shape in SEEN]
    hits = 0
    for rows in torch.arange(len(said)).split(64):
        x = system.schedule.jump(pictures[rows], t, torch.randn(pictures[rows].shape, generator=generator))
        likeliest = system.scores(x, torch.tensor(t, dtype=torch.float64), names).argmax(1)
        own = [SEEN.index((g.colour, g.shape)) for i in rows.tolist() for g in read(said[i]).groups]
        hits += sum(a == b for a, b in zip(likeliest.tolist(), own, strict=True))
    return Interval(hits / len(said), *wilson(hits, len(said)))
