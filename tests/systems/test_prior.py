"""unCLIP's priors against closed forms: principal components, buckets, likelihoods, conditional means, candidates."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.noise import Between, Recorded
from phosphene.diffusion.schedule import Cosine
from phosphene.errors import Problem
from phosphene.nets.ar_prior import CodeTransformer, PcaCodes
from phosphene.nets.prior import Prior
from phosphene.parts import again, part
from phosphene.systems.base import Batch
from phosphene.systems.prior import ArPrior, DiffusionPrior
from phosphene.weights import bundle
from systems.small import awake, eight, made

PROMPTS = ["a red circle", None, "一个小的蓝色正方形 and one more thing that makes it longer than the others"]
PRIORS = ["diffusion_prior", "ar_prior"]


@part
class Spoken(nn.Module):
    """In the place of a CLIP: a prompt is its embedding, numbers that are written out, and one token of them."""

    text_projection = nn.Identity()

    def text(self, prompts):
        rows = torch.tensor([[float(number) for number in (prompt or "0 0").split()] for prompt in prompts])
        return Cond(rows, rows[:, None], torch.ones(len(rows), 1, dtype=torch.bool))

    def image_features(self, pictures):
        return pictures


def listening(name):
    """A small prior with first weights, to which it matters what is said."""
    system, batch = made(name)
    awake(system)
    net = system.net if name == "ar_prior" else system.denoiser.net
    for layer in (net.text, net.states):
        nn.init.normal_(layer.weight)
    return system, batch


def spoken(rows):
    return [" ".join(map(repr, row)) for row in rows.tolist()]


# Principal components and buckets -------------------------------------------------------------------------------------


def test_components_of_a_gaussian():
    """Of N(μ, BΛBᵀ) they are the columns of B in the order of Λ, as far as a sample tells; codes know nothing else."""
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6))
    spread, mean = torch.tensor([0.1, 3.0, 1.0, 0.5, 2.0, 0.2]), torch.randn(6)
    x = mean + (torch.randn(20_000, 6) * spread) @ basis.T
    codes = PcaCodes(6, 3).fit(x)
    found = (codes.basis @ basis).abs()  # (3, 6): cosines with the true directions
    assert found[torch.arange(3), [1, 4, 2]].min() > 0.999
    assert (codes.mean - mean).abs().max() < 0.1
    told = codes.decode(codes(x))
    within = mean + (x - mean) @ basis[:, [1, 4, 2]] @ basis[:, [1, 4, 2]].T
    assert (told - within).square().mean().sqrt() < 0.01 * 3


def test_a_code_is_its_value_within_half_a_bucket():
    torch.manual_seed(0)
    x = torch.randn(500, 8) @ torch.randn(8, 8)
    codes = PcaCodes(8, 8, 16).fit(x)
    inside, values = codes(x), codes.project(x)
    assert inside.min() == 0 and inside.max() == 15
    middles = codes.low + (inside + 0.5) * codes.width
    assert ((middles - values).abs() <= 0.5001 * codes.width).all()
    torch.testing.assert_close(codes.decode(inside), codes.mean + middles @ codes.basis)
    torch.testing.assert_close(codes(codes.decode(inside)), inside)  # a middle is in its own bucket
    far = codes(100 * x)  # outside of the range: the outermost buckets
    assert set(far[(codes.project(100 * x) > codes.low + 16 * codes.width)].tolist()) == {15}


def test_what_codes_cannot_be():
    with pytest.raises(Problem, match="components=9"):
        PcaCodes(8, 9)
    with pytest.raises(Problem, match="components=1000000000"):
        CodeTransformer(4, 8, 2, 2, components=10**9)  # before a table of positions is made for them
    with pytest.raises(Problem, match="buckets=0"):
        PcaCodes(8, 3, 0)
    with pytest.raises(Problem, match="at least 2 vectors"):
        PcaCodes(8, 3).fit(torch.randn(1, 8))


# The code transformer -------------------------------------------------------------------------------------------------


@pytest.fixture
def net():
    torch.manual_seed(0)
    return CodeTransformer(4, 8, 2, 2, length=3, components=3, buckets=4, dots=2).eval()


@pytest.fixture
def said():
    torch.manual_seed(1)
    return Cond(torch.randn(2, 4), torch.randn(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]]))


@torch.no_grad()
def test_its_likelihood_sums_to_one(net, said):
    """Over all 4³ embeddings that there are, whatever is said."""
    codes = torch.tensor(list(itertools.product(range(4), repeat=3)))
    for row, dot in ((0, 1), (1, 2)):
        cond = said[[row] * len(codes)]
        logits = net(codes[:, :-1], torch.full((len(codes),), dot), cond)  # (64, 3, 4)
        each = -F.cross_entropy(logits.flatten(0, 1).double(), codes.flatten(), reduction="none").view(-1, 3)
        assert each.sum(1).exp().sum() == pytest.approx(1, abs=1e-5)
        assert each.sum(1).exp().std() > 1e-4  # they are not all as likely


@torch.no_grad()
def test_step_by_step_is_all_at_once(net, said):
    codes, dot = torch.tensor([[3, 0, 2], [1, 1, 0]]), torch.tensor([0, 2])
    want = net(codes[:, :-1], dot, said)
    going = net.steps(dot, said)
    got = [next(going), going.send(codes[:, 0]), going.send(codes[:, 1])]
    torch.testing.assert_close(torch.stack(got, 1), want)
    with pytest.raises(StopIteration):
        going.send(codes[:, 2])


@torch.no_grad()
def test_no_code_sees_a_later_one_and_nobody_sees_padding(net, said):
    codes, dot = torch.tensor([[3, 0], [1, 1]]), torch.tensor([0, 2])
    want = net(codes, dot, said)
    later = net(torch.tensor([[3, 2], [1, 3]]), dot, said)
    assert torch.equal(want[:, :2], later[:, :2]) and not torch.allclose(want[:, 2], later[:, 2], atol=1e-4)
    other = Cond(said.vector, torch.where(said.mask[..., None], said.tokens, 9.0), said.mask)
    torch.testing.assert_close(net(codes, dot, other), want)
    assert not torch.allclose(net(codes, torch.tensor([1, 0]), said), want, atol=1e-4)


# Both priors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_an_embedding_is_its_seeds(name):
    """Of length 1; not of the batch, the place in it, or the other prompts; another seed makes another one."""
    system, _ = listening(name)
    together = system.embeddings(PROMPTS, seeds=[5, 6, 7])
    assert together.shape == (3, 32) and torch.allclose(together.norm(dim=1), torch.ones(3))
    for i, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(system.embeddings([prompt], seeds=[5 + i]), together[i : i + 1], rtol=0, atol=1e-5)
    assert not torch.allclose(system.embeddings(PROMPTS[:1], seeds=[8]), together[:1], atol=1e-3)
    assert not torch.allclose(system.embeddings(["a blue ring"], seeds=[5]), together[:1], atol=1e-3)
    on_the_way = system.embeddings(PROMPTS[:1], seeds=[Between(5, 8, 0.0)])
    torch.testing.assert_close(on_the_way, together[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_a_file_changes_nothing_of_what_is_predicted(name, tmp_path):
    system, _ = listening(name)
    again_ = bundle.load(bundle.save(system, tmp_path / "it.safetensors"))
    ours, theirs = (it.embeddings(PROMPTS, seeds=[1, 2, 3], guidance=2.0) for it in (system, again_))
    assert torch.equal(ours, theirs)
    kinds = [kind for kind, _ in bundle.describe(tmp_path / "it.safetensors").parts.values()]
    assert kinds.count("ClipSystem") == 1 and kinds[-1] == type(system).__name__


@pytest.mark.parametrize("name", PRIORS)
def test_guidance_moves_towards_the_words(name):
    """g = 1 is the conditional model; g = 0 forgets the words; another text's embedding may stand in theirs' place."""
    system, _ = listening(name)
    one = {"candidates": 1} if name == "diffusion_prior" else {}  # of several z_t chooses, also where it is not told

    def told(prompt, **how):
        return system.embeddings([prompt], seeds=[1], **one, **how)

    red, blue = "a red circle", "a small blue ring"
    torch.testing.assert_close(told(red, guidance=0.0), told(blue, guidance=0.0), rtol=0, atol=1e-5)
    assert not torch.allclose(told(red), told(red, guidance=3.0), atol=1e-3)
    own, _ = system.embed_text([red])
    assert torch.equal(told(red, text_emb=own), told(red))
    assert not torch.allclose(told(red, text_emb=-own), told(red), atol=1e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_clip_stays_as_it_is_and_is_not_trained(name):
    system, batch = made(name)
    ids = {id(p) for p in system.turns["model"]}
    assert ids and not any(id(p) in ids for p in system.clip.parameters())
    assert not system.train().clip.training
    prepared = system.prepare(batch)
    assert prepared.image.shape == (8, 32) and prepared.prompts == batch.prompts and prepared.prepared
    assert torch.equal(prepared.image, system.clip.embed_image(batch.image))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize(
    "wrong, says", [({"seeds": [1, 2]}, "2 seeds"), ({"prompts": []}, "0 prompts"), ({"prompts": [7]}, "wants words")]
)
def test_what_cannot_be_asked(name, wrong, says):
    system, _ = made(name)
    asked = {"prompts": ["a red circle"], "seeds": [1], **wrong}
    with pytest.raises(Problem, match=says):
        system.embeddings(asked["prompts"], seeds=asked["seeds"])
    with pytest.raises(Problem, match="makes no pictures"):
        system.generate(["a"], seeds=[1])


def test_words_are_cut_and_padded_to_the_priors_length():
    system, _ = made("diffusion_prior")
    _, cond = system.embed_text(PROMPTS)
    assert cond.tokens.shape[:2] == (3, 16) and cond.mask[2].all() and not cond.mask[1].all()


# The diffusion prior --------------------------------------------------------------------------------------------------


def test_the_candidate_nearest_to_the_text_is_kept():
    """Of five, by dot product; the first is what one candidate alone would be told from the same noise."""
    system, _ = made("diffusion_prior")
    awake(system)
    z = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    each = torch.stack(
        [
            system.embeddings(
                PROMPTS[:2], seeds=[0, 0], candidates=1, sampler="ddim", noise=Recorded([], z[:, k : k + 1])
            )
            for k in range(5)
        ],
        dim=1,
    )
    text_emb, _ = system.embed_text(PROMPTS[:2])
    best = (each * text_emb[:, None]).sum(-1).argmax(1)
    got = system.embeddings(PROMPTS[:2], seeds=[0, 0], candidates=5, sampler="ddim", noise=Recorded([], z))
    torch.testing.assert_close(got, each[torch.arange(2), best], rtol=0, atol=1e-5)
    assert best.any()  # not simply the first ones
    with pytest.raises(Problem, match="candidates=0"):
        system.embeddings(PROMPTS[:2], seeds=[0, 0], candidates=0)


@pytest.mark.parametrize(
    "wrong, says", [({"sampler": "dimm"}, "ddim"), ({"steps": 0}, "steps"), ({"spacing": "karas"}, "karras")]
)
def test_options_that_there_are_not(wrong, says):
    with pytest.raises(Problem, match=says):
        made("diffusion_prior")[0].embeddings(["a"], seeds=[1], **wrong)


def test_its_loss_is_the_error_of_the_embedding_itself():
    """x is the embedding, less the mean, by the deviation; an oracle that says it has no loss."""
    system, batch = made("diffusion_prior")
    batch = system.prepare(batch)
    net = system.denoiser.net
    x = net.normal(batch.image)
    torch.testing.assert_close(x.mean(0), torch.zeros(32), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std(0), torch.ones(32), rtol=0, atol=1e-3)
    system.denoiser._ask = lambda noisy, t, cond: (x, None)
    assert system.loss(batch).total < 1e-10
    system.denoiser._ask = lambda noisy, t, cond: (x + 2, None)
    assert system.loss(batch).total == pytest.approx(4, rel=1e-4)


def test_it_finds_the_conditional_mean_of_linear_gaussian_pairs():
    """z_i = A·z_t + 0.8·n: of many embeddings of one text the mean is A·z_t, and the deviation 0.8."""
    torch.manual_seed(0)
    matrix, noise = torch.tensor([[1.0, 0.5], [-0.5, 1.0]]), 0.8
    denoiser = Denoiser(Prior(2, 32, 2, 2, 1), Cosine(), "x0")
    system = DiffusionPrior(Spoken(), denoiser, candidates=1, steps=20, unit=False)

    def pairs(n):
        text = torch.randn(n, 2)
        return text, text @ matrix.T + noise * torch.randn(n, 2)

    system.measure(pairs(4000)[1])
    optimiser = torch.optim.Adam(system.turns["model"], 4e-3, (0.9, 0.99))
    for step in range(500):
        optimiser.param_groups[0]["lr"] = 4e-3 * min(1, 2 * (1 - step / 500))
        text, image_emb = pairs(256)
        optimiser.zero_grad()
        system.loss(Batch(image_emb, spoken(text), torch.arange(256))).total.backward()
        optimiser.step()
    system.eval()
    for text in torch.tensor([[1.0, 0.0], [-0.7, 1.2]]):
        got = system.embeddings(spoken(text[None]) * 400, seeds=range(400))
        assert (got.mean(0) - matrix @ text).abs().max() < 0.15
        assert (got.std(0) - noise).abs().max() < 0.2
    # of two candidates the one further along z_t: the larger of two normals is higher by 0.56 deviations
    two = system.embeddings(spoken(text[None]) * 400, seeds=range(400), candidates=2)
    along = (two - got).mean(0) @ text / text.norm()
    assert float(along) == pytest.approx(0.56 * noise, abs=0.15)


# The autoregressive prior ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_codes_are_drawn_as_often_as_they_are_likely():
    """From many seeds, the share of each bucket of the first component is the network's own probability of it."""
    system, _ = listening("ar_prior")
    system.net.norm.weight.data.mul_(8)  # some are far more likely than others
    n, seen = 600, []
    decode = system.codes.decode
    system.codes.decode = lambda codes: seen.append(codes) or decode(codes)
    system.embeddings(["a red circle"] * n, seeds=range(n), nearest=0.75)  # one bucket of four: the last
    [codes] = seen
    _, cond = system.embed_text(["a red circle"])
    likely = next(system.net.steps(torch.tensor([3]), cond))[0].softmax(-1)
    assert likely.max() > 0.1
    shares = torch.bincount(codes[:, 0], minlength=32) / n
    assert (shares - likely).abs().max() < 4 * (likely.max() / n).sqrt()
    assert (codes[1:] != codes[:-1]).any(0).all()  # the others are drawn, too


def test_the_upper_dot_products_are_told():
    """nearest is the share of buckets that none is drawn from; buckets are as full as each other."""
    system, batch = made("ar_prior")
    system.eval()
    told = []
    steps = system.net.steps
    system.net.steps = lambda dot, cond: told.append(dot) or steps(dot, cond)
    for nearest in (0.0, 0.5, 0.75):
        system.embeddings(["a red circle"] * 64, seeds=range(64), nearest=nearest)
    assert [sorted(set(dot.tolist())) for dot in told] == [[0, 1, 2, 3], [2, 3], [3]]
    image_emb = system.prepare(batch).image
    dots = (image_emb * system.embed_text(batch.prompts)[0]).sum(-1)
    assert torch.bincount(torch.bucketize(dots, system.edges), minlength=4).tolist() == [2, 2, 2, 2]
    with pytest.raises(Problem, match="nearest=1"):
        system.embeddings(["a"], seeds=[1], nearest=1.0)


def test_without_words_no_dot_product_is_told():
    system, batch = made("ar_prior")
    told = []
    system.net.register_forward_hook(lambda net, args, out: told.append(args[1]))
    batch = system.prepare(batch)
    batch.prompts = [None, "", *batch.prompts[2:]]
    system.loss(batch)
    assert told[0][:2].tolist() == [4, 4] and max(told[0][2:].tolist()) < 4


def test_its_codes_must_fit_its_network():
    system, _ = made("ar_prior")
    with pytest.raises(Problem, match="5 components of 16 buckets"):
        again(system, codes=PcaCodes(32, 5, 16))


def test_it_finds_two_clouds():
    """z_i is one of two points by the sign of z_t: it says the right one, and both by halves where nothing is said."""
    torch.manual_seed(0)
    net = CodeTransformer(2, 16, 1, 2, 1, components=2, buckets=16, dots=2)
    system = ArPrior(Spoken(), net, PcaCodes(2, 2, 16), nearest=0.0, unit=False)

    def pairs(n):
        text = torch.randint(0, 2, (n, 1)) * 2.0 - 1
        return torch.cat([text, 0 * text], 1), torch.cat([text, -text], 1) + 0.1 * torch.randn(n, 2)

    system.measure(*reversed(pairs(2000)))
    optimiser = torch.optim.Adam(system.turns["model"], 5e-3)
    for _ in range(150):
        text, image_emb = pairs(128)
        prompts = [None if i % 4 == 0 else p for i, p in enumerate(spoken(text))]
        optimiser.zero_grad()
        system.loss(Batch(image_emb, prompts, torch.arange(128))).total.backward()
        optimiser.step()
    system.eval()
    for sign in (1.0, -1.0):
        got = system.embeddings(spoken(torch.tensor([[sign, 0.0]])) * 50, seeds=range(50))
        assert (got * torch.tensor([sign, -sign]) > 0.5).all(1).float().mean() > 0.95
    share = (system.embeddings([None] * 100, seeds=range(100))[:, 0] > 0).float().mean()
    assert 0.3 < share < 0.7


def test_eight_pictures_are_predicted_from_their_captions():
    """What a prior is for: nearer to the picture's embedding than the text's own, and nearer to it than to others'."""
    from systems.small import overfit

    for name in PRIORS:
        system, batch = made(name)
        if name == "ar_prior":
            system.edges.fill_(-2.0)  # one bucket for all dot products: of eight pictures they would tell which it is
        overfit(system, batch, 200, 1e-2)
        image_emb = system.prepare(eight()).image
        got = system.eval().embeddings(batch.prompts, seeds=range(8))
        assert ((got @ image_emb.T).argmax(1) == torch.arange(8)).float().mean() >= 0.85, name
        assert (got * image_emb).sum(1).mean() > (system.embed_text(batch.prompts)[0] * image_emb).sum(1).mean()


@pytest.mark.parametrize("name", PRIORS)
def test_words_become_pictures_by_either_prior(name, tmp_path):
    """unCLIP's decoder is told what the prior says, and a file holds both and one CLIP."""
    from phosphene.systems.unclip import Unclip
    from systems.small import unclip_decoder

    torch.manual_seed(0)
    decoder = unclip_decoder(16)
    prior = again(made(name)[0], clip=decoder.clip)
    system = Unclip([awake(decoder)], awake(prior)).eval()
    previews = list(system.generate(PROMPTS[:1], seeds=[3], steps=2))
    assert [p.stage for p in previews] == ["prior", "base", "base"] and previews[-1].picture().shape == (1, 3, 16, 16)
    [meant] = system.meant(PROMPTS[:1], seeds=[3])
    assert torch.equal(meant.image_emb, prior.embeddings(PROMPTS[:1], seeds=[3])[0])
    again_ = bundle.load(bundle.save(system, tmp_path / "it.safetensors"))
    assert again_.prior.clip is again_.stages[0].clip
    *_, last = again_.generate(PROMPTS[:1], seeds=[3], steps=2)
    assert torch.equal(last.picture(), previews[-1].picture())
