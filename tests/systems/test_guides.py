"""Guides: any judge of noisy pictures steers any diffusion system; in Python, on the command line, in receipts."""

from __future__ import annotations

import pytest
import torch

import phosphene
from phosphene import adapt, receipt
from phosphene.data.scenes import SEEN, Scenes, caption
from phosphene.diffusion.schedule import Cosine, Flow
from phosphene.errors import Problem
from phosphene.recipes.scenes.guidance import pairs
from phosphene.request import Studio
from phosphene.systems.classifier import Classifier
from phosphene.weights import bundle
from systems.small import awake, classifier, ddpm, ddpm_class, latent, made, tower


def picture(system, prompts, seeds, **options):
    *_, last = system.generate(prompts, seeds=seeds, steps=6, **options)
    return last.picture()


@pytest.fixture(scope="module")
def judges():
    """A classifier and a CLIP of first weights, each with what it is told: their gradient is theirs all the same."""
    found = {name: made(name) for name in ("classifier", "clip_noised")}
    with torch.no_grad():
        found["classifier"][0].net.head.pool.attn.to_out.weight *= 8  # not as undecided as it is at first
    return {name: (system.eval(), batch) for name, (system, batch) in found.items()}


@pytest.fixture(scope="module")
def models():
    """With first weights they say v = 0: the best denoiser of normally distributed pixels, told or not."""
    return {"pixels": ddpm().eval(), "told a class": ddpm_class().eval()}


@pytest.mark.parametrize(
    "judge, model", [("classifier", "pixels"), ("clip_noised", "pixels"), ("classifier", "told a class")]
)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
def test_the_guide_is_more_certain_of_what_it_guided(judges, models, judge, model, sampler):
    """The judge's own score of the pictures, without noise, goes up with the scale."""
    guide, batch = judges[judge]
    prompts, seeds = batch.prompts[:4], [0, 1, 2, 3]
    t = torch.tensor(guide.schedule.last, dtype=torch.float64)
    certain = []
    for scale in (0.0, 20.0, 200.0):
        pictures = picture(models[model], prompts, seeds, sampler=sampler, guides=[(guide, scale)])
        certain.append(float(guide.scores(pictures, t, prompts).diagonal().mean()))
    assert certain[0] + 0.02 < certain[1] < certain[2] - 0.02


def test_no_scale_is_no_guide_and_prompts_are_not_heard(judges, models):
    guide, batch = judges["classifier"]
    plain = picture(models["pixels"], batch.prompts[:2], [1, 2])
    assert torch.equal(plain, picture(models["pixels"], batch.prompts[:2], [1, 2], guides=[(guide, 0.0)]))
    assert torch.equal(plain, picture(models["pixels"], [5, 6], [1, 2]))
    assert not torch.equal(plain, picture(models["pixels"], batch.prompts[:2], [1, 2], guides=[(guide, 1.0)]))


def test_several_guides_add_up(judges, models):
    guide, batch = judges["classifier"]
    twice = picture(models["pixels"], batch.prompts[:2], [1, 2], guides=[(guide, 0.5), (guide, 0.5)])
    once = picture(models["pixels"], batch.prompts[:2], [1, 2], guides=[(guide, 1.0)])
    assert torch.allclose(twice, once, atol=1e-5)


def test_a_guided_picture_is_its_seeds(judges, models):
    guide, batch = judges["classifier"]
    together = picture(models["pixels"], batch.prompts[:3], [5, 6, 7], guides=[(guide, 2.0)])
    alone = picture(models["pixels"], batch.prompts[1:2], [6], guides=[(guide, 2.0)])
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_latents_are_guided_undecoded():
    """A classifier of latents on a latent model: the autoencoder decodes once, at the end."""
    system, (guide, batch) = awake(latent()), made("classifier_of_latents")
    assert guide.prepare(batch).image.shape == (8, 8, 8, 8)
    decoded, decode = [], system.autoencoder.decode
    system.autoencoder.decode = lambda z: decoded.append(1) or decode(z)
    plain = picture(system, ["a"], [1], guidance=0.0)
    guide.classes = lambda prompts: [3] * len(prompts)
    assert not torch.equal(plain, picture(system, ["a"], [1], guidance=0.0, guides=[(guide, 5.0)]))
    assert len(decoded) == 2
    with pytest.raises(Problem, match="trained on 3×32×32 numbers, and the model makes its pictures of 8×8×8"):
        picture(system, ["1"], [1], guides=[(classifier(), 1.0)])


# What a classifier is told ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named():
    return Classifier(tower(len(SEEN)), Cosine(), pairs())


def test_words_name_classes(named):
    """Every caption of a scene of one object, in both languages and all wordings, is of its own class."""
    scenes = Scenes(n=60, objects=(1, 1))
    for i in range(60):
        [group] = scenes[i].meta["spec"].groups
        assert set(named.classes(scenes[i].captions)) == {SEEN.index((group.colour, group.shape))}
        assert named.classes([caption(scenes[i].meta["spec"], "zh")]) == named.classes([scenes[i].captions[0]])
    assert named.classes(["7", 7, "(a Red circle:1.3)"]) == [7, 7, SEEN.index(("red", "circle"))]


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("a red heart", "class in the prompt"),  # never trained
        ("a red circle left of a blue square", "several classes, red circle, red square, blue circle, blue square"),
        ("a string of reddish circles", "class in the prompt"),
        (None, "towards a class, 0 … 42"),
        ("43", "class 43 is not one of 0 … 42"),
        (-1, "class -1"),
    ],
)
def test_what_names_no_class(named, prompt, says):
    with pytest.raises(Problem, match=says):
        named.log_prob([prompt], Flow())


def test_as_many_names_as_classes():
    with pytest.raises(Problem, match="2 names for 8 classes"):
        Classifier(tower(8), Cosine(), [["a"], ["b"]])


# On and off, files, receipts ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, judges, models):
    """A model, a guide in a run's folder, and a bare classifier, as ADM's files are."""
    folder = tmp_path_factory.mktemp("guides")
    bundle.save(models["pixels"], folder / "model.safetensors")
    (folder / "run").mkdir()
    bundle.save(judges["classifier"][0], folder / "run" / "model.safetensors")
    bundle.save(judges["classifier"][0].net, folder / "bare.safetensors")
    return folder


def test_a_guide_is_put_on_and_comes_off(files, models, judges):
    system = models["pixels"]
    plain = picture(system, [3], [1])
    with adapt.guide(system, files / "run", 2.0) as on:
        assert on.record["kind"] == "guide" and on.record["name"] == "run" and on.record["strength"] == 2.0
        guided = picture(system, [3], [1])
        assert torch.equal(guided, picture(models["pixels"], [3], [1]))
        on.strength = 0.0
        assert torch.equal(plain, picture(system, [3], [1]))
    assert torch.equal(plain, picture(system, [3], [1])) and not torch.equal(plain, guided)
    assert torch.equal(guided, picture(system, [3], [1], guides=[(judges["classifier"][0], 2.0)]))


def test_a_bare_classifier_is_one_on_the_models_schedule(files, models):
    """ADM's files say no schedule, and their classes are numbers: 3 and "3"."""
    system = models["pixels"]
    with adapt.guide(system, files / "run", 2.0):
        guided = picture(system, ["3"], [1])
    with adapt.guide(system, files / "bare.safetensors", 2.0):
        assert torch.allclose(guided, picture(system, [3], [1]), atol=1e-5)


def test_receipts_name_guides_and_replay_wants_them(files, tmp_path):
    studio = Studio(files / "model.safetensors", guide=f"{files / 'run'}:50")
    [it] = studio.make([("3", 7)], {"steps": 3})
    assert it.receipt["adapters"] == [{"kind": "guide", "name": "run", "sha256": it.receipt["adapters"][0]["sha256"],
                                       "strength": 50.0}]  # fmt: skip
    png = receipt.write(tmp_path / "a.png", it.image, it.receipt)
    with pytest.raises(Problem, match=r"with the guide 'run' .*--guide FILE"):
        phosphene.replay(png, files / "model.safetensors")
    assert phosphene.replay(png, files / "model.safetensors", guide=[files / "run"]).equal
    [plain] = Studio(files / "model.safetensors").make([("3", 7)], {"steps": 3})
    assert plain.image.tobytes() != it.image.tobytes()


def test_from_the_command_line(files, tmp_path):
    from phosphene.cli.generate import main

    out = tmp_path / "b.png"
    main(["3", "--model", str(files / "model.safetensors"), "--guide", f"{files / 'run'}:50",
          "--steps", "3", "--seed", "7", "--out", str(out)])  # fmt: skip
    assert receipt.read(out)["adapters"][0]["strength"] == 50


def test_what_does_not_guide(files, models):
    with pytest.raises(Problem, match="holds a Ddpm, which does not guide"):
        adapt.guide(models["pixels"], files / "model.safetensors")
    with pytest.raises(Problem, match="a Classifier takes none"):
        adapt.guide(classifier(), files / "run")
    with pytest.raises(Problem, match="a classifier makes no pictures"):
        classifier().generate(["3"], seeds=[1])
