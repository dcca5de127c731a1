"""unCLIP's recipes: the decoder, then the whole, each from the one before."""

from pathlib import Path

import pytest
import torch

import phosphene
from phosphene.data.scenes import Scenes, render
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.recipes import RECIPES
from phosphene.systems.unclip import Unclip, UnclipDecoder
from phosphene.systems.upscale import Upscaler

SMALL = dict(steps=2, batch=8, pictures=32, width=16)


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Pictures of two prompts in two steps a stage."""
    from phosphene.recipes import grids

    whole = grids.made_of

    def few(it, prompts, *rest, **how):
        return whole(it, prompts[:2], *rest, **{**how, "steps": [2] * len(it.stages)})

    monkeypatch.setattr(grids, "made_of", few)


def trained(name: str, out: Path, **knobs) -> list[str]:
    return [note for progress in RECIPES[name](**knobs).train(out / name) for note in progress.notes]


def same(a, b) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_unclip_on_scenes(tmp_path):
    """The decoder alone makes small pictures; the whole has it, the prior, one CLIP, and a stage more each time."""
    trained("scenes.clip", tmp_path, steps=1, batch=8, pictures=32, width=32, held=0)
    clip = phosphene.load(tmp_path / "scenes.clip")
    notes = trained("scenes.unclip", tmp_path, judged=2, **SMALL)  # the CLIP lies beside it
    lines = [note for note in notes if "told" in note]
    assert [line.split("told ")[1].split(": right")[0] for line in lines] == [
        "z_i of a scene, and words", "z_i alone", "words alone", "words, and their own embedding for z_i",
    ]  # fmt: skip
    small = phosphene.load(tmp_path / "scenes.unclip")
    assert type(small) is Unclip and type(small.stages[0]) is UnclipDecoder and small.size == 16
    assert same(small.clip, clip) and same(small.clip.text.transformer, clip.text.transformer)
    assert not same(small.stages[0].encoder.words.transformer, clip.text.transformer)
    assert (small.components.variance.diff() <= 0).all() and small.components.variance[0] > 0
    assert phosphene.generate("a red circle", seed=1, model=tmp_path / "scenes.unclip", steps=2).size == (16, 16)

    trained("scenes.prior", tmp_path, steps=2, batch=8, pictures=32, width=32, layers=1, held=0)
    notes = trained("scenes.unclip_upscale", tmp_path, judged=2, **SMALL)
    assert any("one object: right" in note for note in notes)
    whole = phosphene.load(tmp_path / "scenes.unclip_upscale")
    assert [type(stage) for stage in whole.stages] == [UnclipDecoder, Upscaler]
    assert same(whole.stages[0], small.stages[0]) and whole.prior.clip is whole.clip
    assert whole.stages[1].blurred > 0 and not whole.stages[1].noised
    assert torch.equal(whole.components.basis, small.components.basis)
    attention = [type(part).__name__ for part in whole.stages[1].modules() if "Attention" in type(part).__name__]
    assert not attention
    scene = Scenes(32, 1)[0].image
    made = [phosphene.edit(scene, seed=s, model=tmp_path / "scenes.unclip_upscale", steps=2) for s in (1, 2)]
    assert made[0].size == (32, 32) and made[0].tobytes() != made[1].tobytes()

    more = dict(SMALL, unclip=tmp_path / "scenes.unclip_upscale", size=64, blurred=0.0, noised=0.1, judged=0)
    trained("scenes.unclip_upscale", tmp_path / "second", prior=tmp_path / "scenes.prior", **more)
    second = phosphene.load(tmp_path / "second" / "scenes.unclip_upscale")
    assert second.size == 64 and [stage.size for stage in second.stages] == [16, 32, 64]
    assert second.stages[2].noised == 0.1 and not second.stages[2].blurred
    assert same(second.stages[1], whole.stages[1])


def test_a_plan_of_what_is_not_trained_is_given_wholes(tmp_path):
    """As training gives them, from bundles: here the decoder's Unclip, and a prior that knows the same CLIP."""
    plan, _ = RECIPES["scenes.unclip_upscale"](pictures=16, batch=4, width=16, judged=0).plan(16, tmp_path)
    whole = plan.whole(plan.system)
    assert [stage.size for stage in whole.stages] == [16, 32] and whole.prior.clip is whole.clip


def test_emoji_of_the_same_parts(monkeypatch, tmp_path):
    """64 → 128 through the prior, with scenes for emoji: one step of each."""
    source = "phosphene.recipes.emoji.shared.source_of"
    monkeypatch.setattr(source, lambda _, split, **__: Scenes(64, 4) if split == "train" else None)
    trained("scenes.clip", tmp_path, steps=1, batch=4, pictures=8, width=32, held=0, size=64)
    how = dict(steps=1, batch=2)
    trained("emoji.unclip", tmp_path, clip=tmp_path / "scenes.clip", width=16, **how)
    trained("emoji.prior", tmp_path, clip=tmp_path / "scenes.clip", width=32, layers=1, **how)
    trained("emoji.unclip_upscale", tmp_path, width=16, **how)  # decoder and prior lie beside it
    whole = phosphene.load(tmp_path / "emoji.unclip_upscale")
    assert [stage.size for stage in whole.stages] == [64, 128] and whole.prior.clip is whole.clip


def test_what_a_decoder_is_told(monkeypatch):
    """The words and z_i of a scene of the prompt's own, or one of them alone; else the words, for the prior to read."""
    from phosphene.recipes import grids
    from phosphene.recipes.scenes.unclip import told

    asked = []
    scenes = [torch.from_numpy(render(scene, 32)) for _, scene in evaluation_scenes("single", 2)]
    real = torch.stack(scenes).permute(0, 3, 1, 2) / 127.5 - 1

    class Sees:
        class clip:
            embed_image = staticmethod(lambda pictures: pictures.mean((2, 3)))

    monkeypatch.setattr(grids, "made_of", lambda system, prompts: asked.append(prompts) or real)
    for words, seen in ((True, True), (False, True), (True, False)):
        assert told(Sees, 2, words, seen).rate == 1
        assert [bool(p) for p in asked[-1]] == [words] * 2
        rows = [p.image_emb for p in asked[-1]]
        assert rows == [None] * 2 if not seen else torch.equal(torch.stack(rows), real.mean((2, 3)))
    assert told(Sees, 2, prior=True).rate == 1 and all(type(p) is str for p in asked[-1])
    monkeypatch.setattr(grids, "made_of", lambda system, prompts: real.flip(0))
    assert told(Sees, 2).rate == 0
