"""Step by step the same numbers as k-diffusion's samplers, in float64, with the same noise."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.samplers import sample
from phosphene.diffusion.schedule import Karras, ScaledLinear

STEPS = 7
DETERMINISTIC = [
    ("euler", "sample_euler", {}, {}),
    ("heun", "sample_heun", {}, {}),
    ("lms", "sample_lms", {}, {}),
    ("lms", "sample_lms", {"order": 3}, {"order": 3}),
    ("dpmpp_2m", "sample_dpmpp_2m", {}, {}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_sde", "sample_dpmpp_sde", {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.0}, {"eta": 0.0}),
]
STOCHASTIC = [
    ("euler_ancestral", "sample_euler_ancestral", {}, {}),
    ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.4}, {"eta": 0.4}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {}, {}),
    ("dpmpp_sde", "sample_dpmpp_sde", {}, {}),
    ("dpmpp_sde", "sample_dpmpp_sde", {"eta": 0.6}, {"eta": 0.6}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {}, {}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"rule": "heun", "eta": 0.7}, {"solver_type": "heun", "eta": 0.7}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}, {}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.5}, {"eta": 0.5}),
]


@pytest.fixture(params=[Karras(), ScaledLinear()], ids=["EDM", "Stable Diffusion"])
def run(request, mixture):
    """Both libraries from the same x: ours in our scale, theirs in x/α against σ/α. Gives their states and ours."""
    schedule = request.param
    times = schedule.times(STEPS, "karras")
    levels = [schedule(t) for t in times]
    sigmas = torch.stack([level.ratio for level in levels])
    x = sigmas[0] * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(x, sigma):
        return mixture.guess(x, (torch.ones((), dtype=torch.float64), sigma[0]))

    def theirs(function, **options):
        states = []
        last = function(model, x, sigmas, callback=lambda d: states.append(d["x"]), disable=True, **options)
        return [*states[1:], last]

    theirs.sigmas = sigmas

    def ours(name, **options):
        steps = sample(name, mixture.denoise(schedule), levels[0].alpha * x, times, schedule, **options)
        return [step.x / levels[step.index + 1].alpha for step in steps]

    return theirs, ours, x


@pytest.mark.parametrize("name, theirs_name, options, their_options", DETERMINISTIC)
def test_without_noise(k_sampling, run, name, theirs_name, options, their_options):
    theirs, ours, _ = run
    want = theirs(getattr(k_sampling, theirs_name), **their_options)
    torch.testing.assert_close(ours(name, **options), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name, theirs_name, options, their_options", STOCHASTIC)
def test_with_noise(k_sampling, run, name, theirs_name, options, their_options):
    theirs, ours, x = run
    generator = torch.Generator().manual_seed(1)
    arrays = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2 * STEPS)]
    path = iter(arrays)
    want = theirs(getattr(k_sampling, theirs_name), noise_sampler=lambda *_: next(path), **their_options)
    torch.testing.assert_close(ours(name, noise=Recorded(arrays), **options), want, rtol=1e-9, atol=1e-10)


def test_heun_with_churn(k_sampling, run, monkeypatch):
    """k-diffusion draws at every step, also above the band, and shows x after the churn: so the ends are compared."""
    theirs, ours, x = run
    arrays = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(STEPS)
    ]
    path = iter(arrays)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(path))
    want = theirs(k_sampling.sample_heun, s_churn=2.0, s_noise=1.003, s_tmax=10.0)
    monkeypatch.undo()
    got = ours(
        "heun", churn=2.0, churn_noise=1.003, churn_max=10.0, noise=Recorded(arrays[(theirs.sigmas > 10).sum() :])
    )
    torch.testing.assert_close(got[-1], want[-1], rtol=1e-9, atol=1e-10)


def test_spacings(k_sampling):
    schedule = Karras(sigma_min=0.02, sigma_max=14.0)
    for spacing, theirs in (("karras", "get_sigmas_karras"), ("exponential", "get_sigmas_exponential")):
        want = getattr(k_sampling, theirs)(9, 0.02, 14.0)
        got = schedule(schedule.times(9, spacing)).sigma
        torch.testing.assert_close(got.float(), want, rtol=1e-5, atol=0)
