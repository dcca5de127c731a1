"""Imagen: frozen words, a level of noise drawn for each small picture and told, three stages in one call."""

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from phosphene.errors import Problem
from phosphene.systems.base import Batch
from phosphene.systems.cascade import Cascade
from phosphene.weights import bundle
from systems.small import awake, eight, glide_upscaler, imagen, imagen_upscaler, text_encoder

PROMPTS = ["a red circle", "a small blue ring left of two large green stars"]


def generated(system, prompts, seeds, **how):
    *_, last = system.generate(prompts, seeds=seeds, **how)
    return last.picture()


def heard(stage):
    """The conditions that a stage's network is called with, filled as it is called."""
    conds = []
    stage.denoiser.net.register_forward_pre_hook(lambda _, given: conds.append(given[2]))
    return conds


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return awake(imagen_upscaler(32, 16))


@pytest.fixture
def cascade():
    """16 → 32 → 64, of one text encoder."""
    torch.manual_seed(0)
    text = text_encoder()
    base = imagen(text)
    base.size = base.arguments["size"] = 16
    return awake(Cascade([base, imagen_upscaler(32, 16, text), imagen_upscaler(64, 32, text)]))


def test_every_picture_is_noised_to_a_level_of_its_own_and_that_is_told(upscaler, monkeypatch):
    """Grey pictures, so that what is not grey is noise: its deviation is the σ of the level that is told."""
    levels, encode = [], upscaler.encoder.forward
    monkeypatch.setattr(
        upscaler.encoder, "forward", lambda prompts, level=None: levels.append(level) or encode(prompts, level)
    )
    conds = heard(upscaler)
    grey = Batch(torch.full((8, 3, 32, 32), 0.5), ["a red circle"] * 8, torch.arange(8))
    torch.manual_seed(3)
    upscaler(grey)
    t = (levels[0] + 1) / 1000
    assert t.shape == (8,) and len(set(t.tolist())) > 4 and t.min() > 0 and t.max() <= 1
    alpha, sigma = (v.float() for v in upscaler.denoiser.schedule(t))
    shown = conds[0].image
    torch.testing.assert_close(shown.std((1, 2, 3)), sigma, rtol=0.06, atol=1e-3)
    torch.testing.assert_close(shown.mean((1, 2, 3)), 0.5 * alpha, rtol=0, atol=0.08)
    alone = encode(["a red circle"] * 8, levels[0]).vector
    torch.testing.assert_close(conds[0].vector, alone)
    assert (alone[0] - alone[levels[0].argmax()]).abs().max() > 1e-3 or levels[0].argmax() == 0


@torch.no_grad()
def test_the_level_is_a_knob_at_sampling(upscaler):
    """At 0 the small picture is shown as it is; else noised by the picture's own seed, in any batch; and told."""
    small, conds = eight().image[:2, :, ::2, ::2], heard(upscaler)
    how = dict(image=small, steps=1)
    exactly = F.interpolate(small, size=(32, 32), mode="bilinear")
    made = {level: generated(upscaler, PROMPTS, [1, 2], level=level, **how) for level in (0.0, 0.1, 0.6, None)}
    assert torch.equal(conds[0].image[:1], exactly[:1])  # prompts of two lengths are two calls
    assert torch.equal(made[None], made[0.1]) and not torch.allclose(made[0.1], made[0.6], atol=1e-2)
    told = [upscaler.encoder.at(1000 * level - 1)(PROMPTS[:1]).vector for level in (0.0, 0.1, 0.6)]
    said = [c.vector for c in conds if len(c.vector) == 1]
    assert all(any(torch.allclose(mine, v, atol=1e-5) for mine in said) for v in told)
    assert not torch.allclose(told[0], told[2], atol=1e-3)
    alone = generated(upscaler, PROMPTS[1:], [2], level=0.6, image=small[1:], steps=1)
    assert (alone - made[0.6][1:]).abs().max() < 1e-3
    other = generated(upscaler, PROMPTS[1:], [3], level=0.6, image=small[1:], steps=1)
    assert (alone - other).abs().max() > 1e-2
    for level in (-0.1, 1.5):
        with pytest.raises(Problem, match=r"level=.*from 0"):
            generated(upscaler, PROMPTS, [1, 2], level=level, **how)


def test_one_call_from_words_to_the_largest_picture(cascade):
    """Previews of every stage, counted by stage; the last is what the stages make when they are called one by one."""
    previews = list(cascade.generate(PROMPTS[:1], seeds=[3], steps=[3, 2, 1], level=[0.2, 0.4]))
    stages = ["base"] * 3 + ["upscale to 32"] * 2 + ["upscale to 64"]
    assert [p.stage for p in previews] == stages
    assert [p.picture().shape[-1] for p in previews] == [16] * 3 + [32] * 2 + [64]
    made = generated(cascade.stages[0], PROMPTS[:1], [3], steps=3)
    made = generated(cascade.stages[1], PROMPTS[:1], [3], steps=2, image=made, level=0.2)
    made = generated(cascade.stages[2], PROMPTS[:1], [3], steps=1, image=made, level=0.4)
    assert torch.equal(previews[-1].picture(), made)
    one = generated(cascade, PROMPTS[:1], [3], steps=[3, 2, 1], level=0.2)  # is every upscaler's
    assert not torch.allclose(one, made, atol=1e-3)
    with pytest.raises(Problem, match="2 upscalers"):
        generated(cascade, PROMPTS[:1], [3], steps=[1, 1, 1], level=[0.1, 0.2, 0.3])
    with pytest.raises(Problem, match="level"):
        generated(Cascade([imagen(), glide_upscaler(32)]), PROMPTS[:1], [3], steps=[1, 1], level=0.2)


def test_a_stage_is_swapped_and_the_words_are_stored_once(cascade, tmp_path):
    path = bundle.save(cascade, tmp_path / "it.safetensors")
    with safe_open(path, "pt") as file:
        assert sum(name.endswith("token.weight") for name in set(file.keys())) == 1
    loaded = bundle.load(path)
    assert loaded.stages[0].encoder.text is loaded.stages[2].encoder.text
    torch.manual_seed(5)
    swapped = loaded.swapped(1, awake(imagen_upscaler(32, 16)))
    how = dict(seeds=[1], steps=[2, 1, 1])
    ours, theirs = (list(it.generate(PROMPTS[:1], **how)) for it in (cascade, swapped))
    assert torch.equal(ours[1].picture(), theirs[1].picture())
    assert not torch.allclose(ours[2].picture(), theirs[2].picture(), atol=1e-2)


def test_the_text_encoder_is_frozen():
    """It is no part of a turn, gets no gradient, and stays in eval; what pools its states learns."""
    system, batch = imagen(), eight()
    system.train()(batch).total.backward()
    encoder, trained = system.encoder, {id(p) for p in system.turns["model"]}
    assert not any(id(p) in trained or p.grad is not None for p in encoder.text.parameters())
    assert not encoder.text.training and encoder.training
    assert all(id(p) in trained for p in encoder.pool.parameters())


@torch.no_grad()
def test_padding_is_not_pooled():
    """A prompt's vector is the same beside a longer one; it is not the mean of the states, and order in it counts."""
    encoder = awake(imagen()).encoder
    alone, beside = encoder(PROMPTS[:1]), encoder(PROMPTS)
    assert beside.length > alone.length
    torch.testing.assert_close(beside.vector[:1], alone.vector, rtol=0, atol=1e-5)
    encoder.padded = True  # as IF has it: padding counts
    assert (encoder(PROMPTS).vector[:1] - alone.vector).abs().max() > 1e-3


@torch.no_grad()
def test_the_dynamic_threshold_is_the_bases(monkeypatch):
    """At high guidance x0 leaves [−1, 1]: clamping saturates more of the picture than dividing by its quantile."""
    torch.manual_seed(0)
    system = awake(imagen())
    torch.nn.init.normal_(system.denoiser.net.conv_out.weight, std=0.5)
    dynamic = generated(system, PROMPTS[:1], [1], steps=2, guidance=20.0)
    system.threshold = None
    static = generated(system, PROMPTS[:1], [1], steps=2, guidance=20.0)
    full = [(it.abs() >= 0.999).float().mean() for it in (dynamic, static)]
    assert full[0] < 0.02 < full[1]
