"""GLIDE's recipes: each stage from the one before, and the whole cascade in every bundle but the base's."""

from pathlib import Path

import pytest
import torch

import phosphene
from phosphene.data.scenes import Scenes, render
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.recipes import RECIPES
from phosphene.recipes.cascade import Reduced
from phosphene.recipes.parts import pictures_of
from phosphene.systems.base import Preview
from phosphene.systems.cascade import Cascade
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.glide import Inpaint, Likeness
from phosphene.systems.upscale import Upscaler

SMALL = dict(steps=2, batch=8, pictures=32)


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Pictures of two prompts in two steps a stage."""
    from phosphene.recipes import grids

    whole = grids.made_of

    def few(it, prompts, *rest, **how):
        return whole(it, prompts[:2], *rest, **{**how, "steps": [2, 2] if isinstance(it, Cascade) else 2})

    monkeypatch.setattr(grids, "made_of", few)


def trained(name: str, out: Path, **knobs) -> list[str]:
    return [note for progress in RECIPES[name](**knobs).train(out / name) for note in progress.notes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def clip(runs) -> Path:
    trained("scenes.clip", runs, steps=1, batch=8, pictures=32, width=32, held=0)
    return runs / "scenes.clip"


def test_glide_on_scenes(runs, clip):
    """Base, upsampler, inpainting and likeness, each beginning with what the one before it has learned."""
    notes = trained("scenes.glide", runs, clip=clip, width=16, judged=2, **SMALL)
    assert "enlarged by bicubic, one object: right" in notes[-1] and "chance" in notes[-1]
    base = phosphene.load(runs / "scenes.glide")
    assert type(base) is Ddpm and base.size == 16 and base.denoiser.learned_variance
    assert base.denoiser.schedule.T == 1000 and base.denoiser.predicts == "eps"

    notes = trained("scenes.glide_upscale", runs, width=16, judged=2, **SMALL)  # the base lies beside it
    assert notes[-2].startswith("- one object: right")
    cascade = phosphene.load(runs / "scenes.glide_upscale")
    assert [type(stage) for stage in cascade.stages] == [Ddpm, Upscaler]
    assert same(cascade.stages[0], base)
    assert phosphene.generate("a red circle", seed=1, model=runs / "scenes.glide_upscale", steps=2).size == (32, 32)

    notes = trained("scenes.glide_inpaint", runs, judged=2, **SMALL)
    assert "erased and drawn again: right" in notes[-1]
    inpaints = phosphene.load(runs / "scenes.glide_inpaint")
    assert type(inpaints.stages[0]) is Inpaint and same(inpaints.stages[1], cascade.stages[1])
    assert not same(inpaints.stages[0].encoder, base.encoder)

    notes = trained("scenes.glide_like", runs, clip=clip, judged=2, **SMALL)
    assert "alike" in notes[-1] and "elsewhere" in notes[-1]
    likens = phosphene.load(runs / "scenes.glide_like")
    assert type(likens.stages[0]) is Likeness and same(likens.stages[1], cascade.stages[1])
    scene = Scenes(32, 1)[0].image
    made = [phosphene.edit(scene, seed=s, model=runs / "scenes.glide_like", steps=2) for s in (1, 2)]
    assert made[0].size == (32, 32) and made[0].tobytes() != made[1].tobytes()


def same(a, b) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_what_is_erased_and_drawn_again(kind):
    """Filled with the scene itself it is right; as it was given, with a hole, it is not."""
    from phosphene.recipes.scenes.glide import filled

    class Oracle:
        size = 32

        def __init__(self, fills):
            self.fills = fills

        def generate(self, prompts, *, seeds, image, mask, steps):
            scenes = [scene for _, scene in evaluation_scenes(kind, 2)]
            real = torch.stack([torch.from_numpy(render(s, 32)).permute(2, 0, 1) / 127.5 - 1 for s in scenes])
            assert torch.equal(real, image) and all((mask.mean((1, 2, 3)) > 0.1) & (mask.mean((1, 2, 3)) < 0.4))
            picture = torch.where(mask == 1, real if self.fills else torch.ones(()), image)
            yield Preview("base", 0, 1, lambda: picture)

    assert filled(Oracle(True), 2, kind=kind).rate == 1 and filled(Oracle(False), 2, kind=kind).rate == 0


def test_what_is_alike():
    """The pictures themselves are alike and in their place; another's are not alike."""
    from phosphene.recipes.scenes.glide import alike

    class Oracle:
        size = 32

        def __init__(self, roll):
            self.roll = roll

        def generate(self, prompts, *, seeds, image, steps):
            yield Preview("base", 0, 1, lambda: image.roll(self.roll, 0))

    assert alike(Oracle(0), 2) == {"alike": 1, "size": 1, "elsewhere": 0}
    assert alike(Oracle(1), 2)["alike"] == 0


def test_reduced_pictures_are_means():
    scenes = Scenes(32, 4)
    large, small = pictures_of(scenes, 32), pictures_of(Reduced(scenes, 16), 16)
    mean = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - mean).abs().max() <= 1.01 / 127.5
    assert Reduced(scenes, 16)[2].captions == scenes[2].captions
