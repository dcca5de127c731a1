"""What the notes ask of DDPM, and what makes NCSN itself: on data whose denoiser is known."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.bound import prior, term
from phosphene.diffusion.denoiser import Denoised
from phosphene.diffusion.guidance import classifier, rescheduled
from phosphene.diffusion.samplers import ddpm, langevin, start
from phosphene.diffusion.schedule import Cosine, Geometric, Linear
from phosphene.errors import Problem

MODES, SD, SHARE = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.1, 0.25  # SHARE of the data at the first


def responsibilities(x, t, schedule):
    """p(mode | x_t), (B, 2), of x (B, 1) where the data are two Gaussians; and the variance of x_t in each."""
    alpha, sigma = schedule(t)
    var = (alpha * SD) ** 2 + sigma**2
    logits = -((x - alpha * MODES) ** 2) / (2 * var) + torch.tensor([SHARE, 1 - SHARE]).double().log()
    return logits.softmax(1), var


def best(schedule):
    """E[x0 | x_t] of the two Gaussians."""

    def denoise(x, t):
        alpha, _ = schedule(t)
        weight, var = responsibilities(x, t, schedule)
        guess = MODES + alpha * SD**2 / var * (x - alpha * MODES)
        return Denoised((weight * guess).sum(1, keepdim=True))

    return denoise


def likely(schedule, mode):
    return lambda x, t: responsibilities(x, t, schedule)[0][:, mode].log()


def last(steps):
    *_, step = steps
    return step.x


def test_noise_in_one_go_is_noise_step_by_step():
    """300 single steps and one jump are one distribution: at no place do their shares differ by more than chance."""
    torch.manual_seed(0)
    schedule, n = Linear(), 20_000
    x = x0 = torch.where(torch.rand(n) < 0.5, -1.0, 0.3).double()
    for k in range(1, 301):
        x = schedule.step(x, (k - 1) / 1000, k / 1000, torch.randn_like(x))
    jumped = schedule.jump(x0, 0.3, torch.randn_like(x))
    places = torch.linspace(-3, 3, 61)
    apart = ((x[:, None] < places).double().mean(0) - (jumped[:, None] < places).double().mean(0)).abs().max()
    assert float(apart) < 1.95 * (2 / n) ** 0.5  # Kolmogorov and Smirnov, one in a thousand


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_without_its_noise_x_is_cleaner_than_t_says(schedule):
    """With the true x0, Algorithm 2 keeps x at σ_s of noise; with σ_t·z left out, σ_s·r_s/r_1, r = σ/α, is left.

    Each step multiplies the noise by √(1−posterior) = (α_t/α_s)·(σ_s/σ_t), and σ_t·z makes up for the rest.
    """
    torch.manual_seed(0)
    times = schedule.times(50)[:26]
    eps, first = torch.randn(20_000, dtype=torch.float64), times[0]
    x = start(eps, first, schedule)
    x0 = torch.zeros_like(x)
    denoise = lambda x, t: Denoised(x0)  # noqa: E731
    kept = last(ddpm(denoise, x, times, schedule))
    lost = last(ddpm(denoise, x, times, schedule, noise=lambda t, s: torch.zeros_like(x)))
    level, begun = schedule(times[-1]), schedule(first)
    assert float(kept.std()) == pytest.approx(float(level.sigma), rel=0.03)
    torch.testing.assert_close(lost, level.sigma * level.ratio / begun.ratio * x / begun.sigma, rtol=1e-9, atol=1e-12)
    assert float(lost.std()) < 0.05 * float(level.sigma)


def test_annealed_langevin_dynamics_finds_both_modes_in_their_shares():
    torch.manual_seed(0)
    schedule = Geometric(40, 0.02, 10.0)
    x = start(torch.randn(4000, 1, dtype=torch.float64), 1.0, schedule)
    x = last(langevin(best(schedule), x, schedule.times(40), schedule, inner=10, size=0.2))
    low = x < 0
    assert float(low.double().mean()) == pytest.approx(SHARE, abs=0.05)
    assert float(x[low].mean()) == pytest.approx(-1, abs=0.02) and float(x[~low].mean()) == pytest.approx(1, abs=0.02)
    assert float(x[~low].std()) == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize("own", [None, Cosine()], ids=["its own", "another schedule's"])
def test_a_classifier_makes_a_score_model_conditional(own):
    """∇ log p(x|y) = ∇ log p(x) + ∇ log p(y|x) where α = 1, by a classifier of any schedule's noisy pictures."""
    torch.manual_seed(0)
    schedule = Geometric(40, 0.02, 10.0)
    own = own or schedule
    log_prob = rescheduled(likely(own, 0), own, schedule)
    guided = classifier(best(schedule), log_prob, 1.0, schedule)
    x = start(torch.randn(1000, 1, dtype=torch.float64), 1.0, schedule)
    x = last(langevin(guided, x, schedule.times(40), schedule, inner=10))
    assert float((x < 0).double().mean()) > 0.99
    assert float(x.mean()) == pytest.approx(-1, abs=0.02) and float(x.std()) == pytest.approx(SD, rel=0.15)


def test_a_geometric_sequence_of_levels():
    schedule = Geometric(10, 0.01, 1.0)
    alpha, sigma = schedule(torch.arange(1, 11) / 10)
    assert (alpha == 1).all() and float(sigma[0]) == pytest.approx(0.01) and float(sigma[-1]) == pytest.approx(1)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], sigma.new_full((9,), 100 ** (1 / 9)))
    assert schedule.times(10).tolist() == pytest.approx([1 - k / 10 for k in range(11)])
    for wrong in ({"sigma_min": 0.0}, {"sigma_min": 2.0, "sigma_max": 1.0}, {"T": 1}):
        with pytest.raises(Problem, match=r"sigma_min|at least 2"):
            Geometric(**{"T": 10, **wrong})


def test_the_bound_where_variance_explodes():
    """The prior is what samplers start from, N(0, σ²): its part of the bound is that divergence."""
    schedule, x0 = Geometric(20, 0.02, 5.0), torch.tensor([[0.5, -0.25]], dtype=torch.float64)
    q, p = torch.distributions.Normal(x0, 5.0), torch.distributions.Normal(0.0, 5.0)
    torch.testing.assert_close(prior(x0, schedule), torch.distributions.kl_divergence(q, p).mean(1))
    t = torch.tensor(0.5, dtype=torch.float64)
    snr = lambda t: schedule(t).logsnr.exp()  # noqa: E731
    want = 0.5 * (snr(t - 1 / 20) - snr(t)) * x0.square().mean(1)
    torch.testing.assert_close(term(x0, torch.zeros_like(x0), None, schedule, t), want)
