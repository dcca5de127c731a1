"""unCLIP: what the decoder is told, the whole from words to the largest picture, and what is done in the middle."""

import pytest
import torch
from torch.nn import functional as F

from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.nets.components import Components
from phosphene.parts import again, part
from phosphene.systems.base import Batch, System
from phosphene.systems.unclip import UNTOLD, Bipartite, Unclip, joined
from phosphene.systems.upscale import blur
from phosphene.text.unclip import Meant
from phosphene.weights import bundle
from systems.small import W, awake, clip, eight, unclip_decoder, unclip_upscaler

PROMPTS = ["a red circle", "a small blue ring"]
DIM = 2 * W  # of the small CLIP's embeddings


def generated(system, prompts, seeds, **how):
    *_, last = system.generate(prompts, seeds=seeds, **how)
    return last.picture()


def near(a, b):
    """The same but for rounding."""
    return (a - b).abs().mean() < 1e-4


def z(seed=0, n=1):
    return F.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


@part
class Says(System):
    """In the place of a prior: an embedding that is a function of words and seed, and a note of what was asked."""

    def __init__(self, clip):
        super().__init__()
        self.clip, self.asked = clip, []

    def embeddings(self, prompts, *, seeds, **how):
        self.asked += [*zip(prompts, seeds)]
        return torch.cat([z(len(p) + 100 * s) for p, s in zip(prompts, seeds)])


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return awake(unclip_decoder(16))


@pytest.fixture
def unclip(decoder):
    pictures = eight().image
    components = Components.of(decoder.seen(pictures))
    return Unclip([decoder, awake(unclip_upscaler())], None, components).eval()


# What the decoder is told ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_embedding_is_told_twice(decoder):
    """Projected and added to what joins the time; and as four tokens before those of the words."""
    encoder, head = decoder.encoder, decoder.encoder.head
    (a, b), words = z(1, 2), PROMPTS[0]
    one, two, none = (encoder([it]) for it in (Meant(words, a), Meant(words, b), words))
    scale = DIM**0.5
    torch.testing.assert_close(one.vector - two.vector, scale * (a - b)[None] @ head.image.weight.T)
    tokens = head.tokens(scale * a).view(2 * W, 4).T
    torch.testing.assert_close(one.tokens[0, :4], tokens)
    torch.testing.assert_close(one.tokens[0, 4:], two.tokens[0, 4:])
    assert one.tokens.shape[1] == 4 + encoder.words([words]).length and one.mask[0, :4].all()
    torch.testing.assert_close(none.vector, head.text(encoder.words([words]).vector) + head.image(head.null)[None])
    x, t = torch.randn(1, 3, 16, 16), torch.tensor(0.5)
    said = decoder.denoiser(x, t, one).x0
    for field in ("vector", "tokens"):  # the network hears either
        other = type(one)(**{**vars(one), field: getattr(two, field)})
        assert (decoder.denoiser(x, t, other).x0 - said).abs().mean() > 1e-4


def test_the_same_words_may_mean_two_pictures():
    a, b = Meant("a fox", z()[0]), Meant("a fox", z(1)[0])
    assert a == a != b and {a: 1, b: 2}[b] == 2 and str(a) == str(b) == "a fox" and not Meant(None)


def test_what_is_left_out_in_training(decoder):
    """z_i of a tenth of the pictures, by the trainer's own seeding; no words, which data/ leaves out."""
    seen = []
    decoder.encoder.forward = lambda prompts: seen.append([p.image_emb is None for p in prompts]) or prompts
    batch = Batch(torch.zeros(4000, 3, 16, 16), [Meant("a", z()[0])] * 4000, torch.arange(4000), prepared=True)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        assert all(str(p) == "a" for p in decoder.cond(batch))
    assert seen[0] == seen[1] != seen[2] and abs(sum(seen[0]) / 4000 - UNTOLD) < 0.02


def test_it_learns_from_what_clip_sees_at_full_size(decoder):
    batch = eight()
    batch.prompts[0] = None
    ready = decoder.prepare(batch)
    assert [str(p) for p in ready.prompts[:2]] == ["", batch.prompts[1]]
    want = decoder.clip.embed_image(batch.image)
    torch.testing.assert_close(torch.stack([p.image_emb for p in ready.prompts]), want)
    torch.testing.assert_close(ready.image, F.avg_pool2d(batch.image, 2))
    trained = {id(p) for p in decoder.turns["model"]}
    assert trained and not any(id(p) in trained for p in decoder.clip.parameters())
    assert not decoder.train().clip.training and decoder.denoiser.training


def test_guidance_leaves_out_both(decoder):
    """At 0 neither words nor z_i are asked; at 1 both are."""
    meant = [Meant(PROMPTS[0], z()[0])]
    nothing = generated(decoder, [None], [1], steps=3, guidance=1.0)
    assert near(nothing, generated(decoder, meant, [1], steps=3, guidance=0.0))
    assert not near(nothing, generated(decoder, meant, [1], steps=3, guidance=1.0))


# The upsampler --------------------------------------------------------------------------------------------------------


def test_blurring():
    """Against the sum written out, away from the edges and at them; no deviation is no blur."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 9, 11)
    made = blur(x, torch.tensor([0.0, 0.7, 1.6]))
    assert torch.equal(made[0], x[0])
    for row, deviation in ((1, 0.7), (2, 1.6)):
        for i, j in ((4, 5), (0, 10)):
            near_i, near_j = (
                (-((torch.arange(n) - at) ** 2) / (2 * deviation**2)).exp() for n, at in ((9, i), (11, j))
            )
            want = (x[row] * near_i[:, None] * near_j).sum((1, 2)) / (near_i.sum() * near_j.sum())
            torch.testing.assert_close(made[row, :, i, j], want)


def test_an_upsampler_is_shown_blurred_pictures_in_training_alone():
    stage, batch = again(unclip_upscaler(), blurred=3.0), eight("none")
    batch.image = batch.image[:1].repeat(8, 1, 1, 1)  # alike, so that what differs is the blur
    sharp = stage.told(stage.stand_in(batch.image), (32, 32)).image
    torch.manual_seed(3)
    shown = stage.cond(batch).image
    torch.manual_seed(3)
    assert torch.equal(shown, stage.cond(batch).image)
    away = (shown - sharp).square().mean((1, 2, 3))
    assert (away > 1e-3).sum() >= 4 and away.unique().numel() >= 6  # each by another strength, some by next to none
    assert (again(stage, blurred=0.0).cond(batch).image == sharp).all()
    seen = []
    stage.denoiser.register_forward_pre_hook(lambda net, given: seen.append(given[2].image[:8]))
    list(stage.generate([None] * 8, seeds=range(8), image=stage.stand_in(batch.image), steps=1))
    assert torch.equal(seen[0], sharp)


# From words -----------------------------------------------------------------------------------------------------------


def test_previews_of_every_stage_in_one_call(unclip):
    """A stage's previews are its own; each makes what it makes alone."""
    previews = list(unclip.generate(PROMPTS, seeds=[3, 4], steps=[3, 2]))
    assert [(p.stage, p.index, p.total) for p in previews] == [
        ("base", 0, 3), ("base", 1, 3), ("base", 2, 3), ("upscale", 0, 2), ("upscale", 1, 2),
    ]  # fmt: skip
    small, large = previews[2].picture(), previews[-1].picture()
    meant = [Meant(p, row) for p, row in zip(PROMPTS, unclip.clip.embed_text(PROMPTS))]
    assert near(small, generated(unclip.stages[0], meant, [3, 4], steps=3))
    assert torch.equal(large, generated(unclip.stages[1], PROMPTS, [3, 4], steps=2, image=small))
    alone = generated(unclip, PROMPTS[1:], [4], steps=[3, 2])
    assert near(large[1:], alone) and not near(large[:1], alone)


def test_the_prior_says_what_is_meant(unclip):
    prior = Says(unclip.clip)
    whole = again(unclip, prior=prior).eval()
    previews = list(whole.generate(PROMPTS, seeds=[3, 4], steps=[2, 2]))
    assert [p.stage for p in previews] == ["prior", "base", "base", "upscale", "upscale"]
    assert prior.asked == [(PROMPTS[0], 3), (PROMPTS[1], 4)]
    rows = Says(unclip.clip).embeddings(PROMPTS, seeds=[3, 4])
    meant = [Meant(p, row) for p, row in zip(PROMPTS, rows)]
    assert torch.equal(previews[2].picture(), generated(unclip.stages[0], meant, [3, 4], steps=2))
    assert not near(previews[2].picture(), generated(unclip.stages[0], PROMPTS, [3, 4], steps=2))
    glimpse = previews[0].picture()  # made when looked at: the decoder's first guess
    assert torch.equal(glimpse, generated(unclip.stages[0], meant, [3, 4], steps=1))
    assert whole.swapped(1, awake(unclip_upscaler())).prior is prior


def test_a_prompt_is_words_a_picture_or_an_embedding(unclip):
    prior, picture = Says(unclip.clip), eight().image[0]
    whole = again(unclip, prior=prior)
    seen = unclip.clip.embed_image(picture[None])[0]
    made = generated(whole, [picture, seen, Meant(None, seen), None, ""], [1] * 5, steps=[2, 2])
    assert near(made[0], made[1]) and near(made[1], made[2]) and near(made[3], made[4])
    assert not near(made[2], made[3]) and not prior.asked


def test_between_two_prompts_the_embedding_goes_along_its_circle(unclip):
    whole = again(unclip, prior=Says(unclip.clip))
    rows = whole.prior.embeddings(PROMPTS, seeds=[7, 7])
    [on] = whole.meant([Between(*PROMPTS, 0.25)], seeds=[7])
    angle = (rows[0] @ rows[1]).acos()
    assert on.share == 0.25 and torch.equal(on.a.image_emb, on.b.image_emb) and (str(on.a), str(on.b)) == (*PROMPTS,)
    torch.testing.assert_close(on.a.image_emb @ rows[0], (0.25 * angle).cos())
    torch.testing.assert_close(on.a.image_emb @ rows[1], (0.75 * angle).cos())
    ends = [generated(whole, [p], [7], steps=[2, 1]) for p in PROMPTS]
    close, far = ((generated(whole, [Between(*PROMPTS, 0.01)], [7], steps=[2, 1]) - e).abs().mean() for e in ends)
    assert close < 0.2 * far


def test_a_file_holds_the_whole_and_its_clip_once(unclip, tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.KINDS, "Says", Says)
    whole = again(unclip, prior=Says(unclip.clip)).eval()
    file = bundle.save(whole, tmp_path / "it.safetensors")
    again_ = bundle.load(file)
    ours, theirs = (generated(it, PROMPTS[:1], [2], steps=[2, 2]) for it in (whole, again_))
    assert torch.equal(ours, theirs) and again_.clip is again_.prior.clip is again_.stages[0].clip
    assert torch.equal(again_.components.basis, unclip.components.basis)
    assert [kind for kind, _ in bundle.describe(file).parts.values()].count("ClipSystem") == 1
    with pytest.raises(Problem, match=r"stages\[0\]"):
        _ = again_.turns


def test_prior_and_decoder_meet_in_one_clip(decoder):
    prior = Says(clip().eval())
    prior.clip.load_state_dict(decoder.clip.state_dict())
    with pytest.raises(Problem, match="another CLIP"):
        Unclip([decoder], prior)
    assert joined(prior, decoder).clip is decoder.clip and prior.arguments["clip"] is decoder.clip
    assert Unclip([decoder], prior).clip is decoder.clip
    torch.manual_seed(5)
    prior.clip = clip().eval()
    with pytest.raises(Problem, match="two CLIPs"):
        joined(prior, decoder)


# From pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_is_what_it_means_and_the_noise_that_makes_it(unclip):
    """At eta 0 it comes back, whatever the seed; at eta 1 the seed makes another."""
    picture, decoder = eight().image[:1], unclip.stages[0]
    at = unclip.latent(picture, steps=60)
    assert torch.equal(at.image_emb, unclip.clip.embed_image(picture)) and at.noise.shape == (1, 3, 16, 16)
    small, how = F.avg_pool2d(picture, 2), dict(steps=[60, 2])

    def base(eta, seed, at=at, **more):
        return list(unclip.decode(at, seeds=[seed], eta=eta, **how, **more))[59].picture()

    def away(made):
        return (made - small).abs().mean()

    same, others = base(0.0, 1), [base(1.0, seed) for seed in (1, 2)]
    assert torch.equal(same, base(0.0, 2)) and not near(*others)
    fresh = base(0.0, 1, at._replace(noise=torch.randn(1, 3, 16, 16)))
    assert away(same) < 0.3 * away(fresh)
    dials = [(base(eta, 1) - same).abs().mean() for eta in (0.2, 0.5, 1.0)]
    assert 0 < dials[0] < dials[1] < dials[2]
    assert torch.equal(base(0.0, 1, guidance=4.0), same)  # guidance counts as far as eta goes
    assert not near(base(1.0, 1, guidance=4.0), others[0])
    assert torch.equal(base(1.0, 1, guidance=[decoder.guidance, None]), others[0])


def test_the_noise_is_found_told_what_clip_sees(unclip, monkeypatch):
    """And no words: told nothing, or another's z_i, DDIM would find another noise."""
    told, read = [], unclip.stages[0].encoder.forward
    monkeypatch.setattr(unclip.stages[0].encoder, "forward", lambda prompts: told.append(prompts) or read(prompts))
    at = unclip.latent(eight().image[:2], steps=2)
    said = [prompt for prompts in told for prompt in prompts if prompt is not None]  # None: the null prompt
    assert [str(prompt) for prompt in said] == ["", ""]
    assert torch.equal(torch.stack([prompt.image_emb for prompt in said]), at.image_emb)


def test_variations_through_all_stages(unclip):
    pictures, how = eight().image[:2], dict(steps=[3, 2])
    previews = list(unclip.generate([None] * 2, seeds=[1, 2], image=pictures[:1], **how))
    assert [p.stage for p in previews] == ["inversion"] * 2 + ["base"] * 3 + ["upscale"] * 2
    made = previews[-1].picture()
    assert made.shape == (2, 3, 32, 32) and not near(made[:1], made[1:])
    assert near(made[1:], generated(unclip, [None], [2], image=pictures[:1], **how))
    other = generated(unclip, [None] * 2, [1, 2], image=pictures, **how)
    assert near(other[:1], made[:1]) and not near(other[1:], made[1:])
    still = list(unclip.generate([None] * 2, seeds=[1, 2], image=pictures[:1], eta=0.0, **how))[4].picture()
    assert near(still[:1], still[1:])
    large = F.interpolate(pictures[:1], size=(64, 64), mode="nearest")
    assert generated(unclip, [None], [1], image=large, **how).shape == (1, 3, 32, 32)


def test_on_the_way_between_two_pictures(unclip):
    """z_i and x_T along their circles; at the ends what either gives."""
    a, b = (unclip.latent(it, steps=3) for it in eight().image[:2].split(1))
    half = a.towards(b, 0.5)
    torch.testing.assert_close(half.image_emb.norm(), torch.tensor(1.0))
    torch.testing.assert_close((half.image_emb * a.image_emb).sum(), (half.image_emb * b.image_emb).sum())
    assert abs(half.noise.std() - (a.noise.std() + b.noise.std()) / 2) < 0.1
    assert all(torch.equal(x, y) for x, y in zip(a.towards(b, 0.0), a)) and torch.equal(
        a.towards(b, 1.0).noise, b.noise
    )
    pictures, how = eight().image[:2].split(1), dict(steps=[3, 2])
    made = {
        s: generated(unclip, [None], [1], image=pictures[0], towards=pictures[1], strength=s, **how)
        for s in (0.01, 1.0)
    }
    ends = [generated(unclip, [None], [1], image=it, eta=0.0, **how) for it in pictures]
    assert (made[0.01] - ends[0]).abs().mean() < 0.1 * (ends[0] - ends[1]).abs().mean()
    assert near(made[1.0], ends[1])


def test_words_turn_what_is_meant(unclip):
    """By a share of the angle to norm(z_t − z_t0); x_T stays."""
    picture, (before, after) = eight().image[:1], PROMPTS
    at, text = unclip.latent(picture, steps=3), unclip.clip.embed_text(PROMPTS)
    diff = unclip.text_diff([before], [after])
    torch.testing.assert_close(diff, F.normalize(text[1:] - text[:1], dim=-1))
    turned = at.turned(diff, 0.3)
    angle = (at.image_emb * diff).sum().acos()
    torch.testing.assert_close((turned.image_emb * diff).sum(), (0.7 * angle).cos())
    assert torch.equal(turned.noise, at.noise)
    assert torch.equal(at.turned(unclip.text_diff([after], [after]), 0.3).image_emb, at.image_emb)  # nothing new said
    how = dict(steps=[3, 2], image=picture)
    want = list(unclip.decode(turned, seeds=[1], eta=0.0, steps=[3, 2]))[-1].picture()
    assert near(generated(unclip, [after], [1], invert=[before], **how), want)
    assert not near(generated(unclip, [after], [1], **how), want)  # from the empty text
    assert not near(generated(unclip, [after], [1], invert=[before], strength=0.9, **how), want)


def test_principal_components():
    torch.manual_seed(0)
    x = torch.randn(400, 6) @ torch.diag(torch.tensor([3.0, 0.1, 2.0, 1.0, 0.5, 0.2])) + 4
    it = Components.of(x)
    _, singular, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(it.variance, singular**2 / 399)
    assert (it.basis @ directions.T).diagonal().abs().min() > 0.9999
    torch.testing.assert_close(it.first(x, 6), x, atol=1e-4, rtol=1e-4)
    apart = [F.cosine_similarity(it.first(x, k), x).mean() for k in range(1, 7)]
    assert apart == sorted(apart) and apart[0] < apart[-1]
    assert torch.allclose(it.first(x, 2).norm(dim=1), x.norm(dim=1))
    for k in (0, 7):
        with pytest.raises(Problem, match="from 1 to 6"):
            it.first(x, k)


def test_a_picture_told_by_its_first_components(unclip):
    picture, how = eight().image[:1], dict(steps=[3, 2])
    few, all_, none = (
        generated(unclip, [None], [1], image=picture, eta=0.0, components=k, **how) for k in (1, DIM, None)
    )
    assert near(all_, none) and not near(few, none)
    with pytest.raises(Problem, match="no principal components"):
        generated(again(unclip, components=None), [None], [1], image=picture, components=3, **how)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"image": torch.zeros(1, 3, 32, 32), "sampler": "heun"}, "found by DDIM"),
        ({"image": torch.zeros(1, 3, 32, 32), "sampler": ["ddpm", None]}, "found by DDIM"),
        ({"image": torch.zeros(1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)}, "no mask"),
        ({"image": torch.zeros(3, 3, 32, 32)}, "3 pictures"),
        ({"image": torch.zeros(1, 3, 32, 32), "components": 99}, "components=99"),
        ({"image": torch.zeros(1, 3, 32, 32), "strength": 0.4}, "how far unCLIP goes"),
        ({"image": torch.zeros(1, 3, 32, 32), "invert": ["a red circle"]}, "give words"),
        ({"image": torch.zeros(1, 3, 32, 32), "prompts": ["a", ""], "seeds": [1, 2]}, "for all or for none"),
        ({"image": torch.zeros(1, 3, 32, 32), "colour": "red"}, "colour"),
        ({"seeds": [1, 2]}, "2 seeds"),
        ({"steps": [1, 2, 3]}, "each of 2 stages"),
        ({"size": (32, 33)}, "multiples"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be(unclip, wrong, says):
    with pytest.raises(Problem, match=says):
        generated(unclip, **{"prompts": [None], "seeds": [1], "steps": [2, 1], **wrong})


def test_both_halves_of_a_picture_are_rows():
    at = Bipartite(z(0, 3), torch.randn(3, 3, 4, 4))
    shares = torch.tensor([0.0, 0.5, 1.0])
    on = at.towards(Bipartite(z(1, 3), torch.randn(3, 3, 4, 4)), shares)
    assert torch.equal(on.noise[0], at.noise[0]) and not torch.equal(on.noise[1], at.noise[1])
