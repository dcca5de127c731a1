"""Three ways to write the guided noise, and two kinds of guidance that are one, on mixtures that are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.guidance import classifier, classifier_free, rescheduled
from phosphene.diffusion.samplers import eps_of, sample
from phosphene.diffusion.schedule import Cosine, Flow, Karras, Linear
from phosphene.parts import part

# Data on a line: three Gaussians, and two classes that share the middle one.
MEANS = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
SPREAD = 0.3
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
CLASSES = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.05, 0.95]], dtype=torch.float64)  # p(y | component)
T = torch.tensor(0.6, dtype=torch.float64)
X = torch.linspace(-2, 2, 17, dtype=torch.float64)[:, None]


def weights(y=None):
    """Those of p(x), or of p(x | y)."""
    w = WEIGHTS if y is None else WEIGHTS * CLASSES[:, y]
    return w / w.sum()


def log_density(x, level, w):
    """log p(x_t) of the mixture with these weights, (B,) for x (B, 1)."""
    var = (level.alpha * SPREAD) ** 2 + level.sigma**2
    each = -0.5 * (x - level.alpha * MEANS) ** 2 / var - 0.5 * (2 * math.pi * var).log()
    return (each + w.log()).logsumexp(1)


def guess(x, level, w):
    """E[x0 | x_t], by Tweedie's formula."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(at, level, w).sum(), at)
    return (x + level.sigma**2 * score) / level.alpha


def class_log_prob(y, schedule):
    """log p(y | x_t), by Bayes: the implicit classifier of the conditional and the unconditional model."""
    log_prior = (WEIGHTS @ CLASSES)[y].log()
    return lambda x, t: log_density(x, schedule(t), weights(y)) + log_prior - log_density(x, schedule(t), weights())


@part
class Told(nn.Module):
    """The best network: of all data where the condition is −1, of class y where it is y."""

    def __init__(self):
        super().__init__()
        self.schedule = Cosine()

    def forward(self, x, time, cond):
        level = self.schedule((time.double().flatten()[0] + 1) / 1000)
        told, x0 = cond.vector[:, 0].expand(len(x)), torch.zeros_like(x)
        for y in told.unique().tolist():
            x0[told == y] = guess(x[told == y], level, weights(None if y < 0 else int(y)))
        return x0


def said(y):
    return Cond(vector=torch.tensor([[float(y)]], dtype=torch.float64))


@pytest.fixture
def exact():
    return Denoiser(Told(), Cosine(), "x0")


def noise(guided):
    """ε̄ of a guided guess at X."""
    return eps_of(X, guided(X, T).x0, Cosine()(T))


# The notes' question -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 7.0])
def test_the_two_derivations_are_one_line(exact, w):
    """Theirs: (1−ω)·ε_∅ + ω·ε_c. Ho & Salimans': (w+1)·ε_c − w·ε_∅. The same with ω = w + 1."""
    null, given = noise(exact.given(said(-1))), noise(exact.given(said(1)))
    theirs = lambda omega: (1 - omega) * null + omega * given  # noqa: E731
    paper = (w + 1) * given - w * null
    torch.testing.assert_close(theirs(w + 1), paper)
    torch.testing.assert_close(noise(classifier_free(exact, [(said(1), w + 1)], said(-1))), paper)


@pytest.mark.parametrize("w", [0.3, 1.0, 2.0, 7.0])
def test_their_third_form_points_away(exact, w):
    """(1−w)·ε_c + w·ε_∅ is guidance of 1 − w: less of the condition than the plain model, above 1 its opposite."""
    null, given = noise(exact.given(said(-1))), noise(exact.given(said(1)))
    slip = (1 - w) * given + w * null
    torch.testing.assert_close(noise(classifier_free(exact, [(said(1), 1 - w)], said(-1))), slip)
    towards = given - null
    along = ((slip - given) * towards).sum() / towards.square().sum()  # from the conditional model, in ε_c − ε_∅
    assert float(along) == pytest.approx(-w)
    samples = _sampled(classifier_free(exact, [(said(1), 1 - w)], said(-1)), 60)
    plain = _sampled(exact.given(said(1)), 60)
    assert samples.mean() < plain.mean() - 0.05  # class 1 is on the right


def _sampled(denoise, n, steps=40):
    schedule = Cosine()
    z = torch.linspace(0.5 / n, 1 - 0.5 / n, n, dtype=torch.float64)
    z = (2 * z - 1).erfinv()[:, None] * 2**0.5  # quantiles of the normal distribution: no luck in it
    *_, last = sample("ddim", denoise, z, schedule.times(steps), schedule)
    return last.x[:, 0]


# Two kinds that are one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("y", [0, 1])
def test_the_implicit_classifier_is_classifier_free_guidance(exact, g, y):
    """∇ log p(y|x_t) = ∇ log p(x_t|y) − ∇ log p(x_t): of scale g on the unconditional model it is guidance g; on the
    conditional one g + 1, Ho & Salimans' w = g."""
    schedule = exact.schedule
    log_prob = class_log_prob(y, schedule)
    free = lambda scale: classifier_free(exact, [(said(y), scale)], said(-1))(X, T).x0  # noqa: E731
    on_null = classifier(exact.given(said(-1)), log_prob, g, schedule)(X, T).x0
    on_given = classifier(exact.given(said(y)), log_prob, g, schedule)(X, T).x0
    torch.testing.assert_close(on_null, free(g), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(on_given, free(g + 1), rtol=1e-9, atol=1e-9)


def unconditional(schedule):
    return lambda x, t: Denoised(guess(x, schedule(t), weights()))


@pytest.mark.parametrize("g", [0.0, 0.7, 1.0, 4.0])
def test_langevin_samples_the_tilted_density(g):
    """At one level of noise, in small steps, the guided score is that of p(x_t)·p(y|x_t)^g, and so are the samples."""
    schedule, t = Cosine(), torch.tensor(0.5, dtype=torch.float64)
    level, n = schedule(t), 8000
    denoise = classifier(unconditional(schedule), class_log_prob(1, schedule), g, schedule)
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)[:, None]
    log = log_density(grid, level, weights()) + g * class_log_prob(1, schedule)(grid, t)
    density = (log - log.max()).exp() / (log - log.max()).exp().sum()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    fresh = lambda *_: torch.randn(n, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    times = torch.stack([t, t])
    *_, last = sample("langevin", denoise, x, times, schedule, inner=250, size=0.05, noise=fresh)
    for power in (1, 2):
        want = float((grid[:, 0] ** power * density).sum())
        assert float((last.x**power).mean()) == pytest.approx(want, abs=0.05)


def test_the_whole_way_down_it_is_bayes_at_one():
    """g = 1: what DDIM and DDPM's Algorithm 2 make is p(x | y), its mean and its spread."""
    schedule = Cosine()
    denoise = classifier(unconditional(schedule), class_log_prob(1, schedule), 1.0, schedule)
    w = weights(1)
    mean = float(w @ MEANS)
    std = float((w @ (MEANS**2 + SPREAD**2)) - mean**2) ** 0.5
    made = _sampled(denoise, 400, 100)
    assert float(made.mean()) == pytest.approx(mean, abs=0.02) and float(made.std()) == pytest.approx(std, abs=0.02)
    generator = torch.Generator().manual_seed(1)
    fresh = lambda *_: torch.randn(4000, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    *_, last = sample("ddpm", denoise, fresh(), schedule.times(200), schedule, noise=fresh)
    assert float(last.x.mean()) == pytest.approx(mean, abs=0.06) and float(last.x.std()) == pytest.approx(std, abs=0.05)


def test_the_whole_way_down_more_than_one_overshoots():
    """g = 4: samples lie beyond p(x)·p(y|x)^4, as ∇ log E[p(y|x0)^g | x_t] is not g·∇ log E[p(y|x0) | x_t]."""
    schedule = Cosine()
    clean, log_prob = schedule(0.001), class_log_prob(1, schedule)
    grid = torch.linspace(-4, 4, 2001, dtype=torch.float64)[:, None]
    density = (log_density(grid, clean, weights()) + 4 * log_prob(grid, torch.tensor(0.001))).softmax(0)
    made = _sampled(classifier(unconditional(schedule), log_prob, 4.0, schedule), 200)
    assert float(made.mean()) > float(density @ grid[:, 0]) + 0.25


# The papers' two algorithms -------------------------------------------------------------------------------------------


def test_the_papers_two_algorithms_are_one_shift_of_x0():
    """Dhariwal & Nichol: DDIM with ε̂ = ε − g·√(1−ᾱ)·∇ (Algorithm 2); DDPM with μ + g·Σ·∇ (Algorithm 1), Σ = β.

    Both are x0 + g·σ²/α·∇; the first exactly, the second up to its 1/√(1−β), that is α_s/α_t: 0.4 % here.
    """
    schedule, g = Linear(), 1.7
    t, s = torch.tensor([0.6, 0.599], dtype=torch.float64)
    now, then = schedule(t), schedule(s)
    log_prob = class_log_prob(0, schedule)
    with torch.enable_grad():
        at = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_prob(at, t).sum(), at)
    plain, guided = (
        d(X, t).x0 for d in (unconditional(schedule), classifier(unconditional(schedule), log_prob, g, schedule))
    )

    eps = eps_of(X, plain, now) - g * now.sigma * gradient
    ddim = then.alpha * (X - now.sigma * eps) / now.alpha + then.sigma * eps
    step = next(sample("ddim", lambda x, t: Denoised(guided), X, torch.stack([t, s]), schedule))
    torch.testing.assert_close(step.x, ddim)

    beta = now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2
    shift = schedule.posterior(X, guided, t, s)[0] - schedule.posterior(X, plain, t, s)[0]
    torch.testing.assert_close(shift, g * beta * gradient * then.alpha / now.alpha)
    assert 1 < float(then.alpha / now.alpha) < 1.01


# One judge for every schedule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", [Flow(), Karras(), Linear(), Cosine(zero_snr=True)], ids=lambda s: type(s).__name__
)
def test_a_judge_is_at_home_on_every_schedule(schedule):
    """What knows p(y|x_t) on the cosine schedule guides on another as one that knows it there."""
    own = Cosine()
    borrowed = rescheduled(class_log_prob(1, own), own, schedule)
    for t in torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64):
        native, lent = (
            classifier(unconditional(schedule), log_prob, 2.0, schedule)(X, t).x0
            for log_prob in (class_log_prob(1, schedule), borrowed)
        )
        torch.testing.assert_close(lent, native, rtol=1e-6, atol=1e-6)


def test_where_no_signal_is_left_there_is_nothing_to_judge():
    schedule = Cosine(zero_snr=True)
    denoise = classifier(lambda x, t: Denoised(0.5 * x), class_log_prob(1, schedule), 3.0, schedule)
    end = torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(denoise(X, end).x0, 0.5 * X)
    *_, last = sample("ddim", denoise, X, schedule.times(5), schedule)
    assert last.x.isfinite().all()
