"""Guidance on Gaussians, where the guided answer is known, and its contract with the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.guidance import clamp, classifier, classifier_free, dynamic_threshold, switch
from phosphene.diffusion.samplers import eps_of, sample
from phosphene.diffusion.schedule import Cosine, Flow, Karras, Level
from phosphene.errors import Problem
from phosphene.parts import part

SD = 0.6
NULL = Cond(vector=torch.tensor([[0.0, 0.0]], dtype=torch.float64))


def cond(mu, rows=1):
    return Cond(vector=torch.tensor([[mu, 1.0]] * rows, dtype=torch.float64))


def gaussian(x, mu, sd, level):
    """E[x0 | x] for data N(mu, sd²)."""
    alpha, sigma = level
    return mu + alpha * sd**2 / ((alpha * sd) ** 2 + sigma**2) * (x - alpha * mu)


@part
class Two(nn.Module):
    """The best network for N(mu, SD²) under the condition (mu, 1), N(0, 1) under the null (0, 0). Counts its calls."""

    def __init__(self, twice: bool = False):
        super().__init__()
        self.schedule, self.twice, self.rows = Cosine(), twice, []

    def forward(self, x, time, cond):
        self.rows.append(len(x))
        mu, is_cond = (cond.vector[:, i].view(-1, *[1] * (x.ndim - 1)) for i in (0, 1))
        level = self.schedule((float(time.flatten()[0]) + 1) / 1000)
        x0 = gaussian(x, mu, torch.where(is_cond > 0, SD, 1.0), level)
        return torch.cat([x0, mu.expand_as(x0)], dim=1) if self.twice else x0


@pytest.fixture
def two():
    return Denoiser(Two(), Cosine(), "x0")


X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 1, 2, 2)
T = torch.tensor(0.6, dtype=torch.float64)


def test_the_formula(two):
    """x0_∅ + g·(x0_c − x0_∅), the same in x0, in ε and in the score."""
    level = Cosine()(T)
    null, given = gaussian(X, 0.0, 1.0, level), gaussian(X, 0.8, SD, level)
    for g in (0.0, 1.0, 3.5):
        guided = classifier_free(two, [(cond(0.8), g)], NULL)(X, T).x0
        torch.testing.assert_close(guided, null + g * (given - null))
        eps = eps_of(X, null, level) + g * (eps_of(X, given, level) - eps_of(X, null, level))
        torch.testing.assert_close(eps_of(X, guided, level), eps)


def test_one_call_for_everything(two):
    classifier_free(two, [(cond(0.8), 3.0), (cond(-0.2), 1.5)], NULL)(X, T)
    assert two.net.rows == [9]  # two conditions and the null, three rows each


def test_what_has_no_weight_is_not_computed(two):
    classifier_free(two, [(cond(0.8), 1.0)], NULL)(X, T)
    classifier_free(two, [(cond(0.8), 0.0)], NULL)(X, T)
    assert two.net.rows == [3, 3]


def test_guided_sampling_reaches_the_known_gaussian():
    """Conditions of one variance: the guided score is that of N(g·mu, 1) at every level, so that is what is sampled."""
    schedule = Cosine()
    shared = lambda mu: lambda x, t: Denoised(gaussian(x, mu, 1.0, schedule(t)))  # noqa: E731
    denoise = lambda x, t: Denoised(shared(0.0)(x, t).x0 + 3.0 * (shared(0.5)(x, t).x0 - shared(0.0)(x, t).x0))  # noqa: E731
    z = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, last = sample("ddim", denoise, z, schedule.times(200), schedule)
    assert float(last.x.mean()) == pytest.approx(1.5, abs=0.05) and float(last.x.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_guided_ode_has_the_known_solution(sampler):
    """N(mu_c, s²) guided against N(0, 1): in x/α against ρ = σ/α the ODE is linear, and its solution is in closed form.

    dy/dρ = ε̄ = (1−g)·ρ·y/(1+ρ²) + g·ρ·(y−mu)/(s²+ρ²), so y follows (1+ρ²)^((1−g)/2)·(s²+ρ²)^(g/2); mu = 0 here.
    """
    schedule, g = Karras(), 2.5

    @part
    class Net(nn.Module):
        def forward(self, x, time, cond):
            sigma = (4 * time.double()).exp()
            sd = torch.where(cond.vector[:, 1:] > 0, SD, 1.0)
            return gaussian(x, 0.0, sd, Level(torch.ones_like(sigma), sigma))

    denoise = classifier_free(Denoiser(Net(), schedule, "x0"), [(cond(0.0), g)], NULL)
    times = schedule.times(400)[:-1]
    x = torch.linspace(-80, 80, 6, dtype=torch.float64).view(6, 1)
    *_, last = sample(sampler, denoise, x, times, schedule)
    grown = [(1 + r**2) ** ((1 - g) / 2) * (SD**2 + r**2) ** (g / 2) for r in schedule(times).sigma]
    tolerance = 0.05 if sampler == "ddim" else 1e-3
    torch.testing.assert_close(last.x, x * grown[-1] / grown[0], rtol=tolerance, atol=0)


def test_interval(two):
    guided = classifier_free(two, [(cond(0.8), 4.0)], NULL, interval=(0.3, 0.7))
    plain, full = classifier_free(two, [(cond(0.8), 1.0)], NULL), classifier_free(two, [(cond(0.8), 4.0)], NULL)
    for t, want in ((0.2, plain), (0.3, full), (0.5, full), (0.7, full), (0.8, plain)):
        t = torch.tensor(t, dtype=torch.float64)
        torch.testing.assert_close(guided(X, t).x0, want(X, t).x0)


def test_several_conditions(two):
    """Composition: each adds its own difference from the null. A negative weight pushes away."""
    level = Cosine()(T)
    null, a, b = gaussian(X, 0.0, 1.0, level), gaussian(X, 0.8, SD, level), gaussian(X, -0.4, SD, level)
    got = classifier_free(two, [(cond(0.8), 3.0), (cond(-0.4), -1.0)], NULL)(X, T).x0
    torch.testing.assert_close(got, null + 3 * (a - null) - (b - null))


def test_instruct_pix2pix_is_a_list_of_two(two):
    """e(∅,∅) + s_I·(e(I,∅) − e(∅,∅)) + s_T·(e(I,T) − e(I,∅)): weights s_I − s_T and s_T."""
    level = Cosine()(T)
    null, i, it = gaussian(X, 0.0, 1.0, level), gaussian(X, 0.8, SD, level), gaussian(X, -0.4, SD, level)
    got = classifier_free(two, [(cond(0.8), 1.5 - 7.5), (cond(-0.4), 7.5)], NULL)(X, T).x0
    torch.testing.assert_close(got, null + 1.5 * (i - null) + 7.5 * (it - i))


def test_rescale_brings_back_the_deviation(two):
    """φ = 1: the guided output has the deviation of the conditional one; φ between mixes; 0 is off."""
    outputs = {}
    for phi in (0.0, 0.5, 1.0):
        x0 = classifier_free(two, [(cond(0.8), 7.5)], NULL, rescale=phi)(X, T).x0
        outputs[phi] = two.output(X, T, x0)
    given = two.output(X, T, classifier_free(two, [(cond(0.8), 1.0)], NULL)(X, T).x0)
    deviation = lambda v: v.std((1, 2, 3))  # noqa: E731
    torch.testing.assert_close(deviation(outputs[1.0]), deviation(given))
    assert (deviation(outputs[0.0]) > 1.5 * deviation(given)).all()
    torch.testing.assert_close(outputs[0.5], (outputs[0.0] + outputs[1.0]) / 2)


def test_rescale_acts_on_what_the_network_says():
    """On a v network it acts on v, not on x0: the two are different pictures."""
    results = []
    for predicts in ("x0", "v"):
        net = Two()
        if predicts == "v":
            x0_net = net

            @part
            class V(nn.Module):
                def forward(self, x, time, cond, x0_net=x0_net):
                    alpha, sigma = x0_net.schedule((float(time) + 1) / 1000)
                    x0 = x0_net(x, time, cond)
                    return alpha * (x - alpha * x0) / sigma - sigma * x0

            net = V()
        denoiser = Denoiser(net, Cosine(), predicts)
        results.append(
            [classifier_free(denoiser, [(cond(0.8), 5.0)], NULL, rescale=phi)(X, T).x0 for phi in (0.0, 0.7)]
        )
    torch.testing.assert_close(results[0][0], results[1][0])
    assert float((results[0][1] - results[1][1]).abs().max()) > 0.01


def test_the_spread_is_the_conditional_one():
    denoiser = Denoiser(Two(twice=True), Cosine(), "x0", learned_variance=True)
    spread = classifier_free(denoiser, [(cond(0.8), 3.0)], NULL)(X, T).spread
    torch.testing.assert_close(spread, torch.full_like(X, (0.8 + 1) / 2))


def test_rows_keep_their_own_condition(two):
    """Conditions of B rows and of one row; the batch does not matter."""
    many = Cond.cat([cond(mu) for mu in (0.1, 0.5, -0.7)])
    together = classifier_free(two, [(many, 3.0)], NULL)(X, T).x0
    for i, mu in enumerate((0.1, 0.5, -0.7)):
        alone = classifier_free(two, [(cond(mu), 3.0)], NULL)(X[i : i + 1], T).x0
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("schedule", [Cosine(), Karras(), Flow()], ids=["cosine", "karras", "flow"])
@pytest.mark.parametrize("g", [0.0, 1.0, 2.0])
def test_classifier_guidance_is_bayes(schedule, g):
    """The guided guess is the posterior mean of N(0, s²) times p(y|x_t)^g, where y is x0 with Gaussian noise.

    p(y|x_t) is Gaussian too. At g = 1 this is exact at every level; the score is p(x_t)'s plus g times p(y|x_t)'s.
    """
    y, tau = 0.7, 0.4
    t = torch.tensor(0.55, dtype=torch.float64)
    level = schedule(t)
    alpha, sigma = level
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1)
    var = SD**2 * sigma**2 / ((alpha * SD) ** 2 + sigma**2)  # of x0 given x_t

    def log_prob(x, _):
        return -0.5 * ((y - gaussian(x, 0.0, SD, level)) ** 2 / (tau**2 + var)).sum(1)

    plain = lambda x, t: Denoised(gaussian(x, 0.0, SD, schedule(t)))  # noqa: E731
    got = classifier(plain, log_prob, g, schedule)(x, t).x0
    slope = alpha * SD**2 / ((alpha * SD) ** 2 + sigma**2)
    mean = gaussian(x, 0.0, SD, level)
    torch.testing.assert_close(got, mean + g * sigma**2 / alpha * slope * (y - mean) / (tau**2 + var))
    if g == 1:  # x0 given x_t and y: precisions add
        torch.testing.assert_close(got, (mean / var + y / tau**2) / (1 / var + 1 / tau**2))


def test_classifier_inside_a_sampler_has_its_own_gradient():
    """Samplers run without gradients; the guidance opens them inside its call."""
    schedule = Cosine()
    denoise = classifier(
        lambda x, t: Denoised(gaussian(x, 0.0, 1.0, schedule(t))), lambda x, t: x.sum(1), 1.0, schedule
    )
    *_, last = sample("ddim", denoise, torch.zeros(2, 3).double(), schedule.times(20), schedule)
    assert (last.x > 0.5).all() and not last.x.requires_grad


def test_clamp_and_eps_from_the_clamped_guess():
    schedule, x = Cosine(), torch.randn(2, 1, 3, 3)
    far = clamp(lambda x, t: Denoised(4 * torch.ones_like(x)))
    assert (far(x, T).x0 == 1).all()
    step = next(sample("ddim", far, x, schedule.times(2), schedule))
    level, then = schedule(1.0), schedule(0.5)
    want = then.alpha + then.sigma * eps_of(x.double(), torch.ones(2, 1, 3, 3).double(), level)
    torch.testing.assert_close(step.x, want.float(), rtol=1e-4, atol=1e-4)


def test_dynamic_threshold():
    """Imagen: s is the quantile of |x0| of each picture, at least 1; x0 is clamped to ±s and divided by s."""
    x0 = torch.stack([torch.linspace(-0.5, 0.5, 101), torch.linspace(-3, 3, 101)])
    got = dynamic_threshold(lambda x, t: Denoised(x0), quantile=0.9)(x0, T).x0
    assert torch.equal(got[0], x0[0])
    s = torch.quantile(x0[1].abs(), 0.9)
    torch.testing.assert_close(got[1], x0[1].clamp(-s, s) / s)
    most = dynamic_threshold(lambda x, t: Denoised(x0), quantile=0.9, most=1.5)(x0, T).x0
    torch.testing.assert_close(most[1], x0[1].clamp(-1.5, 1.5) / 1.5)


def test_switch():
    a, b, c = (lambda x, t, v=v: Denoised(torch.full_like(x, v)) for v in (1.0, 2.0, 3.0))
    denoise = switch([0.7, 0.3], [a, b, c])
    said = [float(denoise(torch.zeros(1), t).x0) for t in torch.tensor([1.0, 0.71, 0.5, 0.3, 0.1], dtype=torch.float64)]
    assert said == [1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: classifier_free(None, [], NULL), "at least one"),
        (lambda: classifier_free(None, [(NULL, 2.0)], NULL, rescale=1.5), "rescale=1.5"),
        (lambda: classifier_free(None, [(NULL, 2.0)], NULL, interval=(0.8, 0.2)), "lower first"),
        (lambda: dynamic_threshold(None, quantile=0), "quantile=0"),
        (lambda: switch([0.3, 0.7], [None] * 3), "falling"),
        (lambda: switch([0.3], [None] * 3), "want 2 falling"),
    ],
)
def test_what_a_user_can_get_wrong(call, says):
    with pytest.raises(Problem, match=says):
        call()


def test_rows_have_weights_of_their_own(two):
    """g of each row: as each row alone, also where a condition is one row's only, and outside of the interval."""
    a, b = torch.tensor([3.0, 0.0, 1.5]), torch.tensor([0.5, 2.0, 0.0])
    for interval in (None, (0.1, 0.2)):
        how = {"interval": interval}
        got = classifier_free(two, [(cond(0.8, 3), a), (cond(-0.2, 3), b)], NULL, **how)(X, T).x0
        for i in range(3):
            conds = [(cond(0.8), float(a[i])), (cond(-0.2), float(b[i]))]
            torch.testing.assert_close(got[i : i + 1], classifier_free(two, conds, NULL, **how)(X[i : i + 1], T).x0)
