"""GLIDE on scenes (Nichol et al. 2021): a base of 16×16 pixels, an upsampler to 32×32, and what they are fine-tuned to.

Each recipe after the first takes the bundle of the one before and writes a whole cascade, which makes scenes of 32×32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.recipes.base import Plan, check_choice, every, recipe, source_of
from phosphene.recipes.scenes.latent import PROMPTS, reading

if TYPE_CHECKING:
    from torch import Tensor

    from phosphene.data.scenes import Score
    from phosphene.systems.base import System

DATA = "scenes:objects=1-2"


@recipe(clip="scenes.clip")
def glide(
    *,
    data: str = DATA,
    size: int = 16,
    clip: Path | None = None,
    scratch: bool = False,
    steps: int = 2000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    drop: float = 0.1,
    pictures: int = 30_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """GLIDE's base: scenes of 16×16 pixels, those of 32×32 reduced, from words; scenes.glide_upscale enlarges them.

    phosphene train scenes.glide

    clip      a bundle of scenes.clip, with whose text transformer its own begins; trained first where none is given
    scratch   the text transformer begins with random weights, as in the paper
    width     channels at the full size; four times as many at a quarter of it
    drop      how often the caption is left out, for guidance by the empty one
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, enlarged by bicubic; 0 is none
    """
    from phosphene.recipes.cascade import Reduced, glide_base, glide_words, plan_of

    words = glide_words(clip, 6 * width, begin=not scratch)
    system = glide_base(words, size, (width, 2 * width, 4 * width), (0, 1, 1))
    scenes = Reduced(source_of(data, size=2 * size, n=pictures), size)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 3))
    return plan_of(
        system, scenes, size, batch, settings, drop, PROMPTS * 2, dict(steps=20), **reading_enlarged(judged),
        card="# scenes.glide\n\nGLIDE's base: scenes of 16×16 pixels, from words in English and Chinese.",
    )  # fmt: skip


@recipe(glide="scenes.glide")
def glide_upscale(
    *,
    data: str = DATA,
    size: int = 32,
    glide: Path | None = None,
    steps: int = 800,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 24,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """GLIDE's upsampler, 16×16 → 32×32, told the words too. Its bundle is the cascade of the base and this.

    phosphene train scenes.glide_upscale

    glide     a bundle of scenes.glide, the base; trained first where none is given
    width     channels at the full size
    drop      how often the caption is left out
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, of unseen pairs two fifths; 0 is none
    """
    from phosphene.recipes.cascade import after, glide_upscaler, plan_of, stages_of

    base = stages_of(glide)[0]
    system = glide_upscaler(base, size, (width, 2 * width, 4 * width), (0, 0, 1), 6 * width)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 2))
    return plan_of(
        system, source_of(data, size=size, n=pictures), size, batch, settings, drop, PROMPTS * 2,
        dict(steps=[20, 10]), whole=after(base), **reading(judged),
        card="# scenes.glide_upscale\n\nGLIDE: scenes of 16×16 pixels and their enlargement, from words.",
    )  # fmt: skip


@recipe(glide="scenes.glide_upscale")
def glide_inpaint(
    *,
    data: str = DATA,
    glide: Path | None = None,
    stage: str = "base",
    steps: int = 1500,
    batch: int = 64,
    lr: float = 1e-3,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """GLIDE fine-tuned to fill in what was erased. Its bundle is a cascade whose first stage is shown what is left.

    phosphene train scenes.glide_inpaint
    phosphene edit scene.png "a red circle" --mask mask.png --model runs/scenes.glide_inpaint

    glide     a bundle of scenes.glide_upscale, the cascade; trained first where none is given
    stage     which of its stages is fine-tuned: base or upscale
    drop      how often the caption is left out
    pictures  how many scenes are drawn to learn from
    judged    how many erased objects are drawn again at the end, to be read by the exact parser, and two fifths of
              so many of two; 0 is none
    """
    from phosphene.recipes.cascade import Reduced, plan_of
    from phosphene.systems.glide import inpainting

    index = check_choice("stage", stage, {"base": 0, "upscale": 1})
    system = inpainting(glide.stages[index])
    scenes = source_of(data, size=glide.size, n=pictures)
    source = scenes if index else Reduced(scenes, system.size)
    settings = dict(steps=steps, lr=lr, seed=seed, score_every=every(steps, 2))
    return plan_of(
        system, source, system.size, batch, settings, drop, whole=lambda it: glide.swapped(index, it),
        score=lambda it: {"filled": filled(it, min(judged, 40)).rate} if judged else {},
        report=lambda it: [
            f"- {what}, erased and drawn again: right {filled(it, n, kind=kind)}"
            for what, kind, n in (("one object", "single", judged), ("one of two", "pair", -(-2 * judged // 5))) if n
        ],
        card="# scenes.glide_inpaint\n\nGLIDE's base, fine-tuned to fill in what was erased.",
    )  # fmt: skip


@recipe(glide="scenes.glide_upscale", clip="scenes.clip")
def glide_like(
    *,
    data: str = DATA,
    glide: Path | None = None,
    clip: Path | None = None,
    steps: int = 500,
    batch: int = 64,
    lr: float = 5e-4,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """GLIDE's base fine-tuned to be told a picture, by its CLIP embedding, in the place of words: others like it.

    phosphene train scenes.glide_like
    phosphene edit scene.png --model runs/scenes.glide_like

    glide     a bundle of scenes.glide_upscale, the cascade; trained first where none is given
    clip      a bundle of scenes.clip, whose picture tower sees; trained first where none is given
    drop      how often nothing is told
    pictures  how many scenes are drawn to learn from
    judged    how many test scenes of one object are likened at the end, to be read by the exact parser; 0 is none
    """
    import copy

    from phosphene.parts import again
    from phosphene.recipes.cascade import plan_of
    from phosphene.systems.glide import ClipEncoder, Likeness

    base = copy.deepcopy(glide.stages[0])
    sees = base.denoiser.net.arguments
    encoder = ClipEncoder(clip, clip.arguments["width"], sees["vector_dim"], sees["context_dim"])
    system = again(base, Likeness, encoder=encoder)
    scenes = source_of(data, size=glide.size, n=pictures)
    settings = dict(steps=steps, lr=lr, seed=seed, score_every=every(steps, 2))
    return plan_of(
        system, scenes, glide.size, batch, settings, drop, whole=lambda it: glide.swapped(0, it),
        score=lambda it: {"alike": alike(it, min(judged, 40))["alike"]} if judged else {},
        report=lambda it: [f"- of {judged} test scenes: {_shares(alike(it, judged))}"] if judged else [],
        card="# scenes.glide_like\n\nGLIDE's base, told a picture by its CLIP embedding.",
    )  # fmt: skip


def reading_enlarged(judged: int) -> dict[str, Any]:
    """A plan's score and report: the exact parser's, which reads none below 32×32, of one object, by bicubic."""
    from phosphene.data.scenes import evaluate_prompts, score
    from phosphene.recipes.cascade import enlarged
    from phosphene.recipes.grids import made_of

    def read(system: System, n: int) -> Score:
        prompts = evaluate_prompts("single", n)
        return score(prompts, enlarged(made_of(system, prompts)), "single")

    return dict(
        score=lambda it: {"right": read(it, min(judged, 40)).rate} if judged else {},
        report=lambda it: [f"- enlarged by bicubic, one object: right {read(it, judged)}"] if judged else [],
    )


def filled(system: System, n: int, seed: int = 0, kind: str = "single") -> Score:
    """How the exact parser reads n scenes, an object erased and drawn again, told what the whole shows.

    kind  of the scenes: "single" have one object, "pair" two in a relation, of which one stays
    """
    from phosphene.data.scenes import score
    from phosphene.recipes.grids import made_of

    prompts, pictures, holes = with_holes(n, system.size, seed, kind)
    return score(prompts, made_of(system, prompts, seed, image=pictures, mask=holes), kind)


def with_holes(n: int, side: int, seed: int = 0, kind: str = "pair") -> tuple[list[str], Tensor, Tensor]:
    """n scenes: what they show, pictures (n, 3, side, side), and where one object is, 1 in (n, 1, side, side).

    The hole is its box and 2 pixels of 32 around it.
    """
    import torch

    from phosphene.data.scenes import evaluate_prompts, render
    from phosphene.data.scenes.draw import SIZES, UNITS
    from phosphene.data.scenes.judge import evaluation_scenes

    scenes = [scene for _, scene in evaluation_scenes(kind, n, seed)]
    pictures = torch.stack([torch.from_numpy(render(scene, side)).permute(2, 0, 1) / 127.5 - 1 for scene in scenes])
    holes = torch.zeros(n, 1, side, side)
    for hole, (*_, last) in zip(holes, scenes):
        reach = SIZES[last.size] / 2 + 2 * UNITS / 32
        top, bottom, left, right = (
            round(max(0, edge) * side / UNITS) for at in (last.y, last.x) for edge in (at - reach, at + reach)
        )
        hole[:, top:bottom, left:right] = 1
    return evaluate_prompts(kind, n, seed), pictures, holes


def alike(system: System, n: int, seed: int = 0) -> dict[str, float]:
    """Of n test scenes of one object, how many have, in a picture made like them, that object and no other.

    alike: of its shape and colour; size: of its size, too; elsewhere: of these, over an eighth of the side away.
    """
    from phosphene.data.scenes import Scenes, parse
    from phosphene.data.scenes.draw import UNITS
    from phosphene.recipes.grids import made_of
    from phosphene.recipes.parts import pictures_of

    scenes = Scenes(system.size, n, "test", (1, 1))
    made = made_of(system, [None] * n, seed, image=pictures_of(scenes, system.size))
    pairs = [(scenes[i].meta["objects"][0], parse(x).scene or ()) for i, x in enumerate(made)]
    same = [(a, b[0]) for a, b in pairs if len(b) == 1 and (a.shape, a.colour) == (b[0].shape, b[0].colour)]
    away = [max(abs(a.x - b.x), abs(a.y - b.y)) > UNITS / 8 for a, b in same]
    return {
        "alike": len(same) / n,
        "size": sum(a.size == b.size for a, b in same) / n,
        "elsewhere": sum(away) / max(1, len(same)),
    }


def _shares(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in numbers.items())
