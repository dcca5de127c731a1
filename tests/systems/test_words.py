"""From prompts to guidance: what each picture is told at each step, whatever the others of the batch are told."""

import pytest
import torch

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.guidance import classifier_free
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.nets.transformer import TextTransformer
from phosphene.systems.words import guided
from phosphene.text.clip import ClipTextEncoder, ClipTokenizer
from phosphene.text.prompt import emphasised
from systems.small import awake, made

X = torch.randn(3, 8, 16, 16, generator=torch.Generator().manual_seed(3))
TIMES = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.0], dtype=torch.float64)  # four steps


@pytest.fixture(scope="module")
def latent():
    return awake(made("latent")[0])


@torch.no_grad()
def said(latent, text, t, g=3.0, negative=None, rows=1):
    """x0 where the whole prompt is `text`, at time t."""
    conds = [(latent.encoder([emphasised(text)] * rows), g)]
    return classifier_free(latent.denoiser, conds, latent.encoder([negative] * rows))(X[:rows], t).x0


@torch.no_grad()
def told(latent, prompts, t, g=3.0, negative=None, times=TIMES, **how):
    return guided(latent.denoiser, latent.encoder, prompts, negative, g, times, **how)(X[: len(prompts)], t).x0


def near(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)])
def test_schedules_follow_the_steps(latent, times):
    """The k-th step's prompt from its first time down to, and without, its last; in either direction of a run."""
    prompt = "a [red:blue:0.5] [circle|square]"
    want = ["a red circle", "a red square", "a blue circle", "a blue square"]
    for k, text in enumerate(want):
        for t in (TIMES[k], (TIMES[k] + TIMES[k + 1]) / 2):
            assert near(told(latent, [prompt], t, times=times), said(latent, text, t)), (k, float(t))
    assert not near(said(latent, want[0], TIMES[0]), said(latent, want[3], TIMES[0]), 1e-3)


def test_and(latent):
    """x0_∅ + g·Σ w·(x0_c − x0_∅), at any step of a schedule."""
    t = TIMES[1]
    a, b, null = (said(latent, text, t, 1.0) for text in ("red", "(blue:1.2)", ""))
    got = told(latent, ["red :0.5 AND [green:(blue:1.2):1]:-2"], t, g=3.0)
    assert near(got, null + 3 * (0.5 * (a - null) - 2 * (b - null)), 1e-4)
    assert near(told(latent, ["red at 10:30"], t), said(latent, "red at 10:30", t))


def test_the_negative_prompt_has_the_grammar_too(latent):
    """Except for AND, which is a word there."""
    late = told(latent, ["red"], TIMES[3], negative=["[x:(blue:1.5):2] AND y"])
    assert near(late, said(latent, "red", TIMES[3], negative=emphasised("(blue:1.5) AND y")))
    assert not near(late, said(latent, "red", TIMES[3], negative="blue AND y"), 1e-4)


PROMPTS = ["a [red|blue] thing", "red AND (blue:1.3) :0.5 AND a small green square", "[a circle:0.5]"]


def test_no_picture_depends_on_the_others(latent):
    def picture(prompts, seeds, negative):
        *_, last = latent.generate(prompts, seeds=seeds, negative=negative, steps=5, guidance=4.0, sampler="ddim")
        return last.picture()

    negatives = [None, "[x|y]", "a much longer text than the others are"]
    together = picture(PROMPTS, [1, 2, 3], negatives)
    for i in range(3):
        alone = picture([PROMPTS[i]], [i + 1], [negatives[i]])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5), i
    twice = picture([PROMPTS[0]] * 2, [1, 1], [None] * 2)
    assert torch.equal(twice[0], twice[1])


def test_plain(latent):
    prompt = "a (red:1.5) [circle|square] AND x"
    cond = latent.encoder([prompt])
    with torch.no_grad():
        want = classifier_free(latent.denoiser, [(cond, 3.0)], latent.encoder([None]))(X[:1], TIMES[1]).x0
    assert near(told(latent, [prompt], TIMES[1], grammar="plain"), want)
    assert not near(told(latent, [prompt], TIMES[1]), want, 1e-3)
    for text in ("a red circle", None):
        assert torch.equal(told(latent, [text], TIMES[1]), told(latent, [text], TIMES[1], grammar="plain"))
    with pytest.raises(Problem, match="did you mean 'webui'"):
        told(latent, ["x"], TIMES[0], grammar="web-ui")


def test_classes_have_no_grammar():
    system, _ = made("ddpm_class")
    x = torch.randn(2, 3, 32, 32)
    denoise = guided(system.denoiser, system.encoder, [0, "1"], None, 2.0, TIMES)
    with torch.no_grad():
        want = classifier_free(system.denoiser, [(system.encoder([0, 1]), 2.0)], system.encoder([None] * 2))
        assert torch.equal(denoise(x, TIMES[0]).x0, want(x, TIMES[0]).x0)


def test_between_two_prompts(latent):
    """Each end has a schedule of its own."""
    ends = told(latent, [Between("[red:blue:2]", "green", 0.0)], TIMES[2]), said(latent, "blue", TIMES[2])
    assert near(*ends)
    middle = told(latent, [Between("[red:blue:2]", "green", 0.5), "red"], TIMES[2])
    assert not near(middle[:1], ends[1], 1e-4) and near(middle[1:], told(latent, [None, "red"], TIMES[2])[1:])


def test_what_is_said_besides(latent):
    """`also` reaches every condition and the null; for what both say it counts."""
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, time, cond):
            seen.append(cond)
            return x

    net, latent.denoiser.net = latent.denoiser.net, Net()
    try:
        told(latent, ["red AND blue", "x"], TIMES[0], also=Cond(image=torch.ones(1, 5, 16, 16)))
    finally:
        latent.denoiser.net = net
    assert [cond.image.shape for cond in seen] == [(3, 5, 16, 16), (2, 5, 16, 16)], "one call a number of sub-prompts"
    assert [len(cond.tokens) for cond in seen] == [3, 2]
    assert Cond(vector=torch.zeros(1, 2)).merged(Cond(vector=torch.ones(1, 2))).vector.sum() == 2


def test_clip_skip_is_for_both_prompts():
    torch.manual_seed(0)
    tokenizer = ClipTokenizer.shipped()
    encoder = ClipTextEncoder(tokenizer, TextTransformer(len(tokenizer), 8, 3, 2, 77, causal=True)).eval()
    calls = []
    forward = encoder.transformer.forward
    encoder.transformer.forward = lambda ids, **how: calls.append(how["skip"]) or forward(ids, **how)
    latent = made("latent")[0]
    for clip_skip, skip in ((None, 0), (1, 0), (2, 1), (3, 2)):
        guided(latent.denoiser, encoder, ["a"], ["b"], 2.0, TIMES, clip_skip=clip_skip)
        assert calls[-2:] == [skip, skip]
    for which, clip_skip, says in (
        (encoder, 4, "clip_skip=4: from 1 to 3"),
        (encoder, 0, "clip_skip=0"),
        (encoder, 1.5, "clip_skip=1.5"),
        (latent.encoder, 2, "TextEncoder"),
    ):
        with pytest.raises(Problem, match=says):
            guided(latent.denoiser, which, ["a"], None, 2.0, TIMES, clip_skip=clip_skip)


def test_as_many_negative_prompts_as_pictures(latent):
    with pytest.raises(Problem, match="1 negative prompts for 2"):
        told(latent, ["a", "b"], TIMES[0], negative=["c"])
    with pytest.raises(Problem, match="wants words"):
        told(latent, [3], TIMES[0])
