"""The variational bound on data whose likelihood is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from phosphene.diffusion.bound import prior, term, variational_bound
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.samplers import variances
from phosphene.diffusion.schedule import Cosine, Linear, posterior
from phosphene.parts import part

SD = 0.5


def optimal(schedule):
    """For data N(0, SD²): the best guess, and the spread that gives each step's true variance."""

    def denoise(x, t):
        now, then = schedule(t), schedule((t * schedule.T).round().sub(1) / schedule.T)
        marginal = (now.alpha * SD) ** 2 + now.sigma**2
        small, large = variances(now, then)
        if then.sigma == 0:
            small = variances(schedule(2 / schedule.T), now)[0]
        along = then.alpha - (1 - posterior(now, then)).sqrt() * then.sigma * now.alpha / now.sigma
        true = along**2 * SD**2 * now.sigma**2 / marginal + (small if then.sigma > 0 else 0)
        spread = (true.log() - small.log()) / (large.log() - small.log())
        return Denoised(x * now.alpha * SD**2 / marginal, torch.full_like(x, float(spread)))

    return denoise


@pytest.mark.parametrize(
    "schedule", [Linear(10, 0.01, 0.9), Linear(40, 1e-3, 0.4), Cosine(30)], ids=["10", "40", "cosine"]
)
def test_is_the_likelihood_where_the_reversal_is_exact(schedule):
    """Gaussian data has Gaussian reversals: with the true mean and variance the bound is tight in expectation."""
    torch.manual_seed(0)
    x0 = SD * torch.randn(8000, 1, dtype=torch.float64)
    bound = variational_bound(optimal(schedule), x0, schedule, bins=None)
    exact = 0.5 * (x0 / SD).square().mean() + math.log(SD) + 0.5 * math.log(2 * math.pi)
    assert bound.terms.shape == (8000, schedule.T)
    error = float((bound.total - bound.total.mean()).std()) / 8000**0.5
    assert float(bound.total.mean()) == pytest.approx(float(exact), abs=5 * error + float(bound.prior.mean()))
    # and any worse guess is worse
    worse = lambda x, t: Denoised(0.9 * optimal(schedule)(x, t).x0, optimal(schedule)(x, t).spread)  # noqa: E731
    assert float(variational_bound(worse, x0, schedule, bins=None).total.mean()) > float(exact) + 0.01


def test_terms_are_weighted_squares():
    """With DDPM's small variance a term is ½·(SNR_s − SNR_t)·|x0 − guess|² (Kingma et al. 2021, equation 13)."""
    schedule, x0, guess = Linear(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    t = torch.tensor([2, 100, 500, 1000], dtype=torch.float64) / 1000
    snr = lambda t: schedule(t).logsnr.exp()  # noqa: E731
    want = 0.5 * (snr(t - 1e-3) - snr(t)) * (x0 - guess).square().mean(1)
    torch.testing.assert_close(term(x0, guess, None, schedule, t), want, rtol=1e-8, atol=0)


def test_the_decoder_is_a_distribution_over_the_bins():
    """The probabilities of all 256 values sum to 1, wherever the mean lies, in float32 too."""
    schedule, t = Linear(), torch.tensor(1e-3, dtype=torch.float64)
    values = torch.linspace(-1, 1, 256).view(256, 1)
    for mean in (-1.3, -0.99, 0.0, 0.5, 1.0):
        nats = term(values, torch.full_like(values, mean), None, schedule, t)
        assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-4)
        assert float(values[nats.argmin()]) == pytest.approx(max(-1, min(1, mean)), abs=0.01)


def test_prior_is_the_divergence_from_the_normal():
    schedule, x0 = Linear(20, 0.01, 0.2), torch.tensor([[0.5, -0.25]])
    alpha, sigma = schedule(1.0)
    q = torch.distributions.Normal(alpha * x0.double(), sigma)
    want = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(1)
    torch.testing.assert_close(prior(x0, schedule).double(), want, rtol=1e-4, atol=1e-6)


def test_a_term_is_the_divergence_of_two_gaussians():
    """The learned variance in full: KL(q ‖ p) by torch's own formula."""
    schedule, t, s = Cosine(), 0.5, 0.499
    x, x0, guess = (torch.randn(2, 3).double() for _ in range(3))
    spread = torch.rand(2, 3).double()
    mean_q, std = schedule.posterior(x, x0, t, s)
    mean_p, _ = schedule.posterior(x, guess, t, s)
    small, large = variances(schedule(t), schedule(s))
    q, p = (
        torch.distributions.Normal(mean_q, std),
        torch.distributions.Normal(mean_p, (large**spread * small ** (1 - spread)).sqrt()),
    )
    want = torch.distributions.kl_divergence(q, p).mean(1)
    torch.testing.assert_close(term(x0, guess, spread, schedule, torch.tensor(t).double()), want, rtol=1e-7, atol=0)


@part
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.v = nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor(0.0))

    def forward(self, x, time, cond):
        return torch.cat([self.mean * x, self.v.expand_as(x)], dim=1)


def test_learned_variance_trains_the_variance_only_by_the_bound():
    """L_hybrid: the mean's gradient is the simple loss's, the variance's 0.001·T times a term's (Nichol & Dhariwal)."""
    torch.manual_seed(0)
    x0, eps, t = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    net = Net()
    denoiser = Denoiser(net, Linear(), learned_variance=True)
    hybrid = denoiser.loss(x0, t=t, eps=eps)
    mean_grad, v_grad = torch.autograd.grad(hybrid.sum(), [net.mean, net.v])
    x = Linear().jump(x0, t, eps)
    simple = (eps - net.mean * x).square().mean((1, 2, 3))
    torch.testing.assert_close(mean_grad, torch.autograd.grad(simple.sum(), net.mean)[0])
    guess = denoiser(x, t)
    bound = term(x0, guess.x0.detach(), guess.spread, Linear(), t)
    torch.testing.assert_close(hybrid, (eps - net.mean * x).square().mean((1, 2, 3)) + bound)  # 0.001·T = 1
    torch.testing.assert_close(v_grad, torch.autograd.grad(bound.sum(), net.v)[0])


def test_the_bound_as_a_loss_is_its_mean_over_t():
    """T·term at a uniform t is an unbiased estimate: over all t its mean is the sum that the evaluation gives."""
    schedule = Linear(50, 1e-3, 0.2)
    torch.manual_seed(0)
    denoiser = Denoiser(Net(), schedule, weight="bound", learned_variance=True)
    x0 = torch.rand(1, 1, 4, 4) * 2 - 1
    draws = {k: torch.randn_like(x0) for k in range(1, 51)}
    bound = variational_bound(denoiser.given(None), x0, schedule, eps=draws.__getitem__)
    t = torch.arange(1, 51).double() / 50
    losses = denoiser.loss(x0.expand(50, -1, -1, -1), t=t, eps=torch.cat([draws[k] for k in range(1, 51)]))
    torch.testing.assert_close(losses.mean(), bound.terms.sum(), rtol=1e-4, atol=1e-5)
    losses.sum().backward()
    assert denoiser.net.mean.grad.abs() > 0 and denoiser.net.v.grad.abs() > 0


def test_a_guess_that_is_far_off_at_the_noisiest_level_has_a_gradient():
    """α is 5e-5 there, so an untrained network's x0 is in the thousands: no step of training may become NaN by it."""
    x0 = torch.rand(2, 1, 4, 4) * 2 - 1
    spread = torch.full_like(x0, 0.5).requires_grad_()
    guess = x0 + torch.tensor([2e4, 0.01])[:, None, None, None] * torch.randn_like(x0)
    term(x0, guess, spread, Cosine(), torch.tensor([1.0, 0.001], dtype=torch.float64)).sum().backward()
    assert spread.grad.isfinite().all() and spread.grad[1].any()
