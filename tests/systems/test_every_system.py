"""What holds for every system: it learns eight pictures, it is the same after a file, its noise is its seed's."""

import itertools
import math

import pytest
import torch

from phosphene.errors import Problem
from phosphene.weights import bundle
from systems.small import GENERATE, SYSTEMS, awake, learn_codes, made, overfit


def picture(system, prompts, seeds, **options):
    *_, last = system.generate(prompts, seeds=seeds, **options)
    return last.picture()


@pytest.mark.parametrize("name", SYSTEMS)
def test_its_loss_falls_on_eight_pictures(name):
    system, batch = made(name)
    losses = overfit(system, batch, 60, 3e-3)
    first, last = sum(losses[:8]), sum(losses[-8:])
    assert last < 0.8 * first or name == "vae_gan"  # a game's loss need not fall
    assert all(math.isfinite(x) for x in losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATE)
def test_it_makes_the_eight_pictures_it_learned(name):
    """The picture itself, not the loss: from noise and what it was told, near the one that it was told of."""
    system, batch = made(name)
    told_nothing = batch.prompts[0] is None
    if name == "latent_vq_class":  # the others' autoencoders begin as principal components, this one knows nothing
        learn_codes(system.autoencoder, batch)
    overfit(system, batch, 3000 if told_nothing else 1200, 2e-3)
    told = system.eval().prepare(batch).prompts
    pictures = picture(system, told, list(range(8)), steps=25)
    distance = (pictures[:, None] - batch.image[None]).square().flatten(2).mean(2)  # (made, real)
    if told_nothing:  # each is near to some picture, nearer than a white one, and they are not all the same
        white = (1 - batch.image).square().flatten(1).mean(1)
        assert white.min() > 0.03
        assert (distance.min(1).values < 0.03).float().mean() >= 0.75
        assert len(distance.argmin(1).unique()) >= 3
    else:
        assert (distance.argmin(1) == torch.arange(8)).float().mean() >= 0.85
        assert distance.diagonal().median() < 0.03


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_file_changes_nothing(name, tmp_path):
    system, batch = made(name)
    awake(system)
    bundle.save(system, tmp_path / "it.safetensors")
    again = bundle.load(tmp_path / "it.safetensors")
    assert type(again) is type(system)
    ours, theirs = system.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    if name in GENERATE:
        prompts, seeds = batch.prompts[:2], [3, 4]
        assert torch.equal(picture(system, prompts, seeds, steps=3), picture(again, prompts, seeds, steps=3))
    else:
        batch = system.prepare(batch)
        torch.manual_seed(0)
        want = system.loss(batch, "model").total
        torch.manual_seed(0)
        assert torch.equal(want, again.loss(batch, "model").total)


@pytest.mark.parametrize("name", GENERATE)
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_a_picture_is_its_seeds(name, sampler):
    """Not of the batch, the place in it, or the other prompts."""
    system, batch = made(name)
    awake(system)
    system.denoiser.net.double()  # what float32 rounds otherwise in a batch is test_same_picture's matter
    together = picture(system, batch.prompts[:3], [5, 6, 7], steps=3, sampler=sampler)
    alone = picture(system, [batch.prompts[1]], [6], steps=3, sampler=sampler)
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    other = picture(system, [batch.prompts[1]], [8], steps=3, sampler=sampler)
    assert not torch.allclose(alone, other, atol=1e-2)


@pytest.mark.parametrize("name", GENERATE)
def test_previews(name):
    """One a step, numbered; they decode only when looked at, and the last is the picture."""
    system, batch = made(name)
    awake(system)
    decoded = []
    decode = system.decode
    system.decode = lambda x: decoded.append(1) or decode(x)
    previews = list(system.generate(batch.prompts[:1], seeds=[1], steps=4))
    assert [(p.index, p.total) for p in previews] == [(i, 4) for i in range(4)] and not decoded
    assert previews[-1].picture().shape == (1, 3, 32, 32) and len(decoded) == 1
    assert previews[-1].picture().abs().max() <= 1


@pytest.mark.parametrize("name", GENERATE)
def test_stopping_early_costs_nothing(name):
    system, batch = made(name)
    calls = []
    system.denoiser.net.register_forward_hook(lambda *_: calls.append(1))
    list(itertools.islice(system.generate(batch.prompts[:1], seeds=[1], steps=9), 2))
    two = len(calls)
    list(system.generate(batch.prompts[:1], seeds=[1], steps=9))
    assert two >= 2 and 9 * two == 2 * (len(calls) - two)


@pytest.mark.parametrize("name", ["ddpm_class", "latent"])
def test_guidance_moves_towards_the_prompt(name):
    """g = 1 is the conditional model; g = 0 forgets the prompt; a negative prompt equal to it is no guidance."""
    system, batch = made(name)
    awake(system)
    a, b = batch.prompts[:2]

    def made_of(prompt, **options):
        return picture(system, [prompt], [1], steps=2, **options)

    assert torch.allclose(made_of(a, guidance=0.0), made_of(b, guidance=0.0), atol=1e-5)
    assert torch.allclose(made_of(a, guidance=5.0, negative=[a]), made_of(a, guidance=1.0), atol=1e-4)
    assert not torch.allclose(made_of(a, guidance=5.0), made_of(a, guidance=1.0), atol=1e-3)


@pytest.mark.parametrize("name", GENERATE)
@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"steps": 0}, "steps"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"spacing": "karas"}, "karras"),
        ({"size": (0, 33)}, "0x33"),
        ({"colour": "red"}, "colour"),
        ({"seeds": [1, 2]}, "2 seeds"),
    ],
)
def test_what_cannot_be(name, wrong, says):
    system, batch = made(name)
    with pytest.raises(Problem, match=says):
        picture(system, batch.prompts[:1], **{"seeds": [1], "steps": 2, **wrong})


@pytest.mark.parametrize("name", ["vae", "clip"])
def test_those_that_make_no_pictures_say_so(name):
    system, _ = made(name)
    with pytest.raises(Problem, match="makes no pictures"):
        system.generate(["a"], seeds=[1])


def test_larger_pictures_than_trained():
    system, batch = made("latent")
    assert picture(awake(system), batch.prompts[:1], [1], steps=2, size=(48, 64)).shape == (1, 3, 48, 64)


def test_the_autoencoder_of_a_latent_model_is_frozen():
    system, _ = made("latent")
    ids = {id(p) for p in system.turns["model"]}
    assert not any(id(p) in ids for p in system.autoencoder.parameters())
    assert not system.train().autoencoder.training and system.denoiser.training


def test_clip_tells_its_pairs_apart():
    system, batch = made("clip")
    overfit(system, batch, 300, 3e-3)
    assert (system.eval().nearest(batch.image, batch.prompts)[:, 0] == torch.arange(8)).float().mean() >= 0.75
    assert system.nearest(batch.image, batch.prompts, k=3).shape == (8, 3)


def test_clip_brings_pictures_to_its_size():
    system, batch = made("clip")
    system.size = 32
    large = torch.nn.functional.interpolate(batch.image, size=(64, 96), mode="nearest")
    close = torch.nn.functional.cosine_similarity(system.embed_image(large), system.embed_image(batch.image))
    assert close.min() > 0.95


def test_clip_loss_against_the_definition():
    """Symmetric cross-entropy of scaled cosine similarities, computed here the long way."""
    system, batch = made("clip")
    images, texts = system.embed_image(batch.image), system.embed_text(batch.prompts)
    assert torch.allclose(images.norm(dim=1), torch.ones(8), atol=1e-5)
    s = system.log_scale.exp() * images @ texts.T
    rows = -torch.stack([s[i, i] - s[i].logsumexp(0) for i in range(8)]).mean()
    columns = -torch.stack([s[i, i] - s[:, i].logsumexp(0) for i in range(8)]).mean()
    assert torch.allclose(system.loss(batch).total, (rows + columns) / 2, atol=1e-5)
