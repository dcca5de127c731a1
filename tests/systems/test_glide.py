"""GLIDE: two stages as one system, inpainting that begins as the base, pictures like a picture."""

import pytest
import torch
from torch.nn import functional as F

from phosphene.adapt.guiding import guide
from phosphene.diffusion.schedule import Cosine
from phosphene.errors import Problem
from phosphene.parts import again
from phosphene.systems.cascade import Cascade
from phosphene.systems.clip_noised import NoisedClip
from phosphene.systems.glide import WHOLE, InpaintUpscaler, erased, inpainting
from phosphene.weights import bundle
from systems.small import W, awake, ddpm, eight, glide, glide_inpaint, glide_like, glide_upscaler, text_encoder, tower

PROMPTS = ["a red circle", "a small blue ring"]


def generated(system, prompts, seeds, **how):
    *_, last = system.generate(prompts, seeds=seeds, **how)
    return last.picture()


def near(a, b):
    """The same but for rounding, which the first step of ε-prediction makes larger than others do."""
    return (a - b).abs().mean() < 1e-4


def base(make=glide):
    """At 16×16, so that an upsampler of 16 → 32 follows."""
    return again(make(), size=16)


@pytest.fixture
def cascade():
    torch.manual_seed(0)
    return awake(Cascade([base(), glide_upscaler(16)]))


def hole(rows=32):
    """An odd rectangle, which the stages' grids do not share."""
    mask = torch.zeros(1, 1, rows, rows)
    mask[..., 9:20, 11:25] = 1
    return mask


def test_previews_of_both_stages_in_one_call(cascade):
    """A stage's previews are its own; the result is what the upsampler makes by itself of what the base made."""
    previews = list(cascade.generate(PROMPTS, seeds=[3, 4], steps=[3, 2]))
    assert [(p.stage, p.index, p.total) for p in previews] == [
        ("base", 0, 3), ("base", 1, 3), ("base", 2, 3), ("upscale", 0, 2), ("upscale", 1, 2),
    ]  # fmt: skip
    small, large = previews[2].picture(), previews[-1].picture()
    assert small.shape == (2, 3, 16, 16) and large.shape == (2, 3, 32, 32)
    assert torch.equal(small, generated(cascade.stages[0], PROMPTS, [3, 4], steps=3))
    assert torch.equal(large, generated(cascade.stages[1], PROMPTS, [3, 4], steps=2, image=small))
    alone = generated(cascade, PROMPTS[1:], [4], steps=[3, 2])
    assert near(large[1:], alone) and not near(large[:1], alone)


def test_one_value_is_the_first_stages_and_a_list_has_each(cascade):
    assert [p.total for p in cascade.generate(PROMPTS[:1], seeds=[1])] == [10] * 10 + [4] * 4
    assert [p.total for p in cascade.generate(PROMPTS[:1], seeds=[1], steps=2)] == [2] * 2 + [4] * 4
    assert [p.total for p in cascade.generate(PROMPTS[:1], seeds=[1], steps=[None, 1])] == [10] * 10 + [1]
    one, both = (generated(cascade, PROMPTS[:1], [1], steps=[2, 2], guidance=g) for g in (4.0, [4.0, 4.0]))
    assert not torch.allclose(one, both, atol=1e-4)
    assert generated(cascade, PROMPTS[:1], [1], steps=[2, 2], size=(24, 40)).shape == (1, 3, 24, 40)


def test_the_upsampler_is_told_the_words(cascade):
    small = torch.zeros(1, 3, 16, 16)
    red, blue = (generated(cascade.stages[1], [p], [1], image=small) for p in PROMPTS)
    assert (red - blue).abs().mean() > 1e-3


def test_classifier_free_guidance_by_the_empty_caption(cascade):
    """At 0 the words are forgotten; at 1 they are the only ones asked; the null prompt is the empty text."""
    stage, how = cascade.stages[0], dict(steps=3)
    nothing = [generated(stage, [p], [1], guidance=0.0, **how) for p in (*PROMPTS, None, "")]
    assert all(near(nothing[0], it) for it in nothing[1:])
    asked = [generated(stage, PROMPTS[:1], [1], guidance=g, **how) for g in (1.0, 4.0)]
    assert not near(asked[0], nothing[0]) and not near(*asked)


def test_a_clip_of_noisy_pictures_steers_the_base(cascade, tmp_path):
    """As it does any denoiser's pictures: called with it, or put on."""
    clip = NoisedClip(text_encoder(), tower(2 * W, size=16), Cosine()).eval()
    plain, steered, none = (
        list(cascade.generate(PROMPTS, seeds=[1, 2], steps=[3, 2], guides=[(clip, scale)])) for scale in (0.0, 5.0, 0.0)
    )
    assert torch.equal(plain[2].picture(), none[2].picture()) and not near(plain[2].picture(), steered[2].picture())
    on = guide(cascade, bundle.save(clip, tmp_path / "clip.safetensors"), 5.0)
    put_on = list(cascade.generate(PROMPTS, seeds=[1, 2], steps=[3, 2]))
    assert near(put_on[2].picture(), steered[2].picture())
    on.remove()
    assert near(plain[-1].picture(), generated(cascade, PROMPTS, [1, 2], steps=[3, 2]))


def test_a_stage_is_swapped_and_the_others_stay(cascade):
    torch.manual_seed(7)
    other = awake(glide_upscaler(16))
    torch.nn.init.normal_(other.denoiser.net.conv_out.weight, std=0.2)
    swapped = cascade.swapped(1, other)
    ours, theirs = (list(it.generate(PROMPTS[:1], seeds=[1], steps=[2, 2])) for it in (cascade, swapped))
    assert torch.equal(ours[1].picture(), theirs[1].picture())
    assert not torch.allclose(ours[-1].picture(), theirs[-1].picture(), atol=1e-2)
    assert swapped.stages[0] is cascade.stages[0] and cascade.stages[1] is not other
    assert swapped.arguments["stages"][1] is other


def test_a_file_holds_the_cascade_and_training_a_stage_changes_it_alone(cascade, tmp_path):
    again_ = bundle.load(bundle.save(cascade, tmp_path / "it.safetensors"))
    how = dict(seeds=[2], steps=[2, 2])
    want = generated(cascade, PROMPTS[:1], **how)
    assert torch.equal(want, generated(again_, PROMPTS[:1], **how))
    stage, batch = again_.stages[1], eight()
    before = {k: v.clone() for k, v in again_.stages[0].state_dict().items()}
    optimizer = torch.optim.SGD(stage.turns["model"], 0.1)
    stage(batch).total.backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in again_.stages[0].state_dict().items())
    assert not torch.equal(want, generated(again_, PROMPTS[:1], **how))
    with pytest.raises(Problem, match=r"stages\[0\]"):
        again_.loss(batch)
    with pytest.raises(Problem, match=r"stages\[0\]"):
        _ = again_.turns


def test_an_edit_goes_through_every_stage(cascade):
    """SDEdit at the base's size; a mask is kept by each stage, to the pixel of the large picture."""
    picture = eight().image[:1]
    steps = [p.stage for p in cascade.generate(PROMPTS[:1], seeds=[1], image=picture, strength=0.3)]
    assert steps == ["base"] * 3 + ["upscale"] * 4
    near, far = (
        list(cascade.generate(PROMPTS[:1], seeds=[1], image=picture, strength=s))[: int(10 * s)][-1].picture()
        for s in (0.1, 1.0)
    )
    small = F.interpolate(picture, size=(16, 16), mode="area")
    assert (near - small).abs().mean() < 0.5 * (far - small).abs().mean()
    for made in (
        generated(cascade, PROMPTS[:1], [1], image=picture, mask=hole(), steps=[4, 4], strength=s) for s in (1, 0.5)
    ):
        assert torch.equal(made[hole().expand_as(made) == 0], picture[hole().expand_as(made) == 0])
        assert (made - picture)[..., 10:19, 12:24].abs().mean() > 0.05


@pytest.mark.parametrize("make", [glide, glide_upscaler])
def test_inpainting_begins_as_what_it_is_tuned_from(make):
    """The new weights are zero: whatever is shown in the new channels, the output is the stage's own; it is a copy."""
    torch.manual_seed(0)
    stage = awake(make())
    tuned = inpainting(stage)
    c, x = stage.denoiser.net.arguments["in_channels"], torch.randn(2, 3, 32, 32)
    cond = stage.encoder(PROMPTS)
    told = torch.randn(2, c - 3, 32, 32)
    old = cond.merged(type(cond)(image=told)) if c > 3 else cond
    new = cond.merged(type(cond)(image=torch.cat([torch.randn(2, 4, 32, 32), told], 1)))
    with torch.no_grad():
        want, got = (it.denoiser(x, torch.tensor(0.5), k) for it, k in ((stage, old), (tuned, new)))
        torch.testing.assert_close(got.x0, want.x0, rtol=0, atol=1e-5)
    before = [p.clone() for p in stage.parameters()]
    torch.manual_seed(1)
    tuned(eight()).total.backward()
    gradient = tuned.denoiser.net.conv_in.weight.grad[:, 3:7]
    assert gradient.any(), "the new channels learn"
    torch.optim.SGD(tuned.parameters(), 0.1).step()
    assert all(torch.equal(a, b) for a, b in zip(before, stage.parameters()))


def test_inpainting_wants_a_unet():
    stage = ddpm()
    stage.denoiser.net = torch.nn.Identity()
    with pytest.raises(Problem, match="Identity"):
        inpainting(stage)


def test_what_is_erased():
    torch.manual_seed(0)
    mask = erased(torch.zeros(4000, 3, 16, 24))
    share = mask.mean((1, 2, 3))
    assert mask.shape == (4000, 1, 16, 24) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs((share == 1).float().mean() - WHOLE) < 0.05
    assert share.min() > 0.04 and (mask[:, 0].any(2).sum(1) >= 3).all()  # a quarter of a side, at least
    box = mask[:, 0].any(1).sum(1) * mask[:, 0].any(2).sum(1)
    assert torch.equal(box, mask[:, 0].sum((1, 2)))  # a rectangle
    torch.manual_seed(0)
    assert torch.equal(mask, erased(torch.zeros(4000, 3, 16, 24)))


def test_inpainting_keeps_and_sees_what_is_left():
    """Pixels outside of the mask are the picture's; what is redrawn depends on what is left, not on what is erased."""
    torch.manual_seed(0)
    base_, upscaler = awake(base(glide_inpaint)), awake(inpainting(glide_upscaler(16)))
    for net in (base_.denoiser.net, upscaler.denoiser.net):
        torch.nn.init.normal_(net.conv_in.weight, std=0.3)
    system, picture = Cascade([base_, upscaler]).eval(), eight().image[:1]
    kept = hole().expand_as(picture) == 0

    def made(picture):
        return generated(system, PROMPTS[:1], [1], image=picture, mask=hole(), steps=[3, 3])

    ours = made(picture)
    assert torch.equal(ours[kept], picture[kept])
    under = torch.where(kept, picture, -picture)
    # a cell of the small picture's that the mask covers in part is erased there: nothing of it gets through
    assert torch.equal(made(under)[~kept], ours[~kept])
    beside = torch.where(kept, -picture, picture)
    assert (made(beside)[~kept] - ours[~kept]).abs().mean() > 1e-3
    assert generated(system, PROMPTS[:1], [1], steps=[2, 2]).shape == (1, 3, 32, 32)
    assert isinstance(upscaler, InpaintUpscaler)


def test_pictures_like_a_picture():
    """Another seed, another picture; another picture, another condition; the words are for the upsampler alone."""
    torch.manual_seed(0)
    system, (a, b) = awake(Cascade([glide_like(), glide_upscaler(16)])), eight().image[:2].split(1)
    how = dict(steps=[2, 2])
    ours = generated(system, [None], [1], image=a, **how)
    assert ours.shape == (1, 3, 32, 32) and system.likens
    assert not torch.allclose(ours, generated(system, [None], [2], image=a, **how), atol=1e-2)
    assert not torch.allclose(ours, generated(system, [None], [1], image=b, **how), atol=1e-3)
    both = generated(system, [None, None], [1, 1], image=torch.cat([a, b]), **how)
    assert near(both[:1], ours)
    small = list(system.generate(["x"], seeds=[1], image=a, **how))[1].picture()
    assert torch.equal(small, list(system.generate([None], seeds=[1], image=a, **how))[1].picture())
    large = F.interpolate(a, size=(64, 64), mode="nearest")
    assert generated(system, [None], [1], image=large, **how).shape == (1, 3, 32, 32)
    words = [generated(system, [p], [1], **how) for p in (*PROMPTS, None)]  # by CLIP's text embedding
    assert not torch.allclose(words[0], words[1], atol=1e-3) and not torch.allclose(words[0], words[2], atol=1e-3)


def test_likeness_learns_from_what_clip_sees_at_full_size():
    system = glide_like()
    batch = eight()
    batch.prompts[0] = None
    ready = system.prepare(batch)
    assert ready.image.shape == (8, 3, 16, 16) and ready.prompts[0] is None
    torch.testing.assert_close(ready.prompts[3], system.encoder.clip.embed_image(batch.image)[3])
    cond = system.encoder(ready.prompts)
    assert cond.tokens.shape[:2] == (8, 4)
    torch.testing.assert_close(cond.vector[3:4], system.encoder([batch.image[3]]).vector)
    torch.testing.assert_close(cond.vector[:1], system.encoder([None]).vector)
    trained = {id(p) for p in system.turns["model"]}
    assert not any(id(p) in trained for p in system.encoder.clip.parameters())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": [1, 2, 3]}, "each of 2 stages"),
        ({"hires": 2.0}, "by its own stages"),
        ({"size": (32, 33)}, "multiples of 2"),
        ({"mask": hole()}, "a mask is of a picture"),
        ({"colour": "red"}, "colour"),
        ({"seeds": [1, 2]}, "2 seeds"),
        ({"image": torch.zeros(1, 3, 8, 8), "size": (32, 32)}, "too small"),
    ],
)
def test_what_cannot_be(cascade, wrong, says):
    with pytest.raises(Problem, match=says):
        generated(cascade, PROMPTS[:1], **{"seeds": [1], "steps": [1, 1], **wrong})


def test_stages_that_do_not_fit():
    with pytest.raises(Problem, match="at least one"):
        Cascade([])
    with pytest.raises(Problem, match=r"enlarges pictures of 8 cannot follow .* 16"):
        Cascade([base(), glide_upscaler(8)])
    with pytest.raises(Problem, match="enlarges nothing"):
        Cascade([base(), base()])
    upscaler = glide_upscaler(16)
    with pytest.raises(Problem, match="both"):
        generated(upscaler, PROMPTS[:1], [1], image=torch.zeros(1, 3, 16, 16), mask=hole())
