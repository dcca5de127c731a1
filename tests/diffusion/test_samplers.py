"""Samplers against known answers: orders of convergence, exact solutions, right distributions, and the one move."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch

from phosphene.diffusion.denoiser import Denoised
from phosphene.diffusion.noise import Plain, Recorded
from phosphene.diffusion.samplers import SAMPLERS, ddim, eps_of, move, sample, start, x0_of
from phosphene.diffusion.schedule import Cosine, Flow, Karras, Linear, ScaledLinear
from phosphene.errors import Problem

# (sampler, options, its order on the probability flow): measured here, and printed in docs/diffusion.md
ORDERS = [
    ("ddim", {}, 1),
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("dpmpp_2m", {}, 2),
    ("dpmpp_2m", {"rule": "heun"}, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2),
    ("dpmpp_sde", {"eta": 0.0}, 2),
    ("dpmpp_3m_sde", {"eta": 0.0, "bend": 1.0}, 3),
    ("plms", {}, 2),  # its weights are for even steps
    ("pndm", {}, 2),
    ("deis", {"order": 2}, 2),
    ("deis", {}, 3),
    ("lms", {"order": 2}, 2),
    ("lms", {}, 4),
    ("unipc", {"order": 1}, 2),  # the corrector adds one
    ("unipc", {}, 3),
    ("unipc", {"order": 3}, 4),
    ("unipc", {"rule": "bh1"}, 3),
]


def error(mixture, name, options, steps):
    """RMS distance from the ODE's solution after `steps` Karras steps from σ = 80 to 0.002."""
    schedule = Karras()
    times = schedule.times(steps + 1)[:-1]
    x = 80 * torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)
    *_, last = sample(name, mixture.denoise(schedule), x, times, schedule, **options)
    want = mixture.carried(x, schedule(times[0]), schedule(times[-1]))
    return float((last.x - want).square().mean().sqrt())


@pytest.mark.parametrize("name, options, order", ORDERS)
def test_order_of_convergence(mixture, name, options, order):
    coarse, fine = error(mixture, name, options, 80), error(mixture, name, options, 160)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_the_published_third_order_is_second(mixture):
    """With the coefficients of k-diffusion and diffusers (bend = 0.5) the error falls as h²; bend = 1 mends it."""
    published = [error(mixture, "dpmpp_3m_sde", {"eta": 0.0}, steps) for steps in (160, 320)]
    mended = error(mixture, "dpmpp_3m_sde", {"eta": 0.0, "bend": 1.0}, 320)
    assert math.log2(published[0] / published[1]) < 2.1 and mended < published[1] / 5


@pytest.mark.parametrize("schedule", [ScaledLinear(), Cosine(), Flow()], ids=["scaled_linear", "cosine", "flow"])
@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "unipc", "deis", "lms", "plms", "pndm"])
def test_the_same_path_on_every_schedule(mixture, name, schedule):
    """Between the same noise-to-signal ratios all schedules' runs are one run, scaled by α."""
    karras = Karras()
    ratios = torch.tensor([12.0, 7.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    x = torch.linspace(-30, 30, 7, dtype=torch.float64)
    runs = []
    for s in (karras, schedule):
        times = s.at(-2 * ratios.log())
        first = s(times[0]).alpha * x
        runs.append([step.x / s(step.t).alpha for step in sample(name, mixture.denoise(s), first, times, s)])
    if name == "pndm":  # its Runge-Kutta middles are middles in t, so only the first-order part is the same
        return torch.testing.assert_close(runs[0][-1], runs[1][-1], rtol=0.05, atol=0.05)
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "unipc", "deis", "lms", "plms", "dpmpp_3m_sde"])
def test_one_point_is_reached_exactly(name):
    """Where all data is one point the guess is exact, and every step of every solver lies on the line to it."""
    schedule, point = Linear(), 0.37
    denoise = lambda x, t: Denoised(torch.full_like(x, point))  # noqa: E731
    z = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = schedule.jump(torch.full_like(z, point), 1.0, z)
    options = {"eta": 0.0} if name == "dpmpp_3m_sde" else {}
    for step in sample(name, denoise, x, schedule.times(7), schedule, **options):
        torch.testing.assert_close(step.x, schedule.jump(torch.full_like(z, point), step.t, z))


STOCHASTIC = {  # steps, options: first order is slow, and Langevin wants to mix
    "ddim": (400, {"eta": 1.0}),
    "ddpm": (400, {}),
    "euler_ancestral": (400, {}),
    "dpmpp_2m_sde": (60, {}),
    "dpmpp_3m_sde": (60, {}),
    "dpmpp_2s_ancestral": (60, {}),
    "dpmpp_sde": (200, {}),
    "heun": (60, {"churn": 20.0}),
    "langevin": (20, {"inner": 60, "size": 0.3}),
}


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("schedule", [ScaledLinear(), Karras()], ids=["scaled_linear", "karras"])
def test_stochastic_samplers_reach_the_data(name, schedule):
    """Data N(0.4, 0.5²) with the exact denoiser: the pictures have its mean and its deviation."""
    torch.manual_seed(0)
    mean, sd, n = 0.4, 0.5, 4000
    steps, options = STOCHASTIC[name]

    def denoise(x, t):
        alpha, sigma = schedule(t)
        return Denoised(mean + alpha * sd**2 / ((alpha * sd) ** 2 + sigma**2) * (x - alpha * mean))

    times = schedule.times(steps, "karras")
    x = start(torch.randn(n, dtype=torch.float64), times[0], schedule)
    *_, last = sample(name, denoise, x, times, schedule, **options)
    assert float(last.x.mean()) == pytest.approx(mean, abs=0.03)
    assert float(last.x.std()) == pytest.approx(sd, rel=0.06)


def test_lcm_is_guess_and_noise():
    schedule, noise = Linear(), [torch.randn(2, 3) for _ in range(3)]
    guesses = []

    def denoise(x, t):
        guesses.append(0.1 * x)
        return Denoised(guesses[-1])

    steps = list(sample("lcm", denoise, torch.randn(2, 3), schedule.times(4), schedule, noise=Recorded(noise)))
    for step, guess, z in zip(steps, guesses, noise):
        torch.testing.assert_close(step.x, schedule.jump(guess, step.t, z))
    torch.testing.assert_close(steps[-1].x, guesses[-1])


def test_no_more_than_all_noise_is_fresh(mixture):
    """η beyond what the posterior allows is all fresh noise, which is LCM's step."""
    schedule, x, z = Linear(), torch.randn(2, 3).double(), [torch.randn(2, 3).double() for _ in range(3)]
    runs = [
        [
            step.x
            for step in sample(name, mixture.denoise(schedule), x, schedule.times(4), schedule, noise=Recorded(z), **o)
        ]
        for name, o in (("ddim", {"eta": 50.0}), ("lcm", {}))
    ]
    torch.testing.assert_close(*runs)


def test_churn_goes_up_by_at_most_root_two_within_its_band():
    schedule, asked = Karras(), []
    times = schedule.times(8)

    def denoise(x, t):
        asked.append(schedule(t).ratio)
        return Denoised(torch.zeros_like(x))

    options = {"churn": 1e3, "churn_min": 0.1, "churn_max": 10.0}
    list(sample("heun", denoise, torch.randn(2, 2).double(), times, schedule, **options))
    ratios = schedule(times[:-1]).ratio
    up = torch.where((ratios >= 0.1) & (ratios <= 10), 2**0.5, torch.ones(8).double())
    assert (up == 1).any() and (up > 1).any()
    torch.testing.assert_close(torch.stack(asked[::2]), up * ratios)


def test_move_is_the_posterior():
    """With τ = posterior the move's mean and deviation are q(x_s | x_t, x0)'s; with std only the noise changes."""
    schedule, x, x0, z = Cosine(), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    t, s = schedule(0.8), schedule(0.5)
    tau = 1 - (t.alpha / s.alpha * s.sigma / t.sigma) ** 2
    mean, std = schedule.posterior(x, x0, 0.8, 0.5)
    torch.testing.assert_close(move(x, x0, t, s, tau, z), mean + std * z)
    torch.testing.assert_close(move(x, x0, t, s, tau, z, std=torch.tensor(2.0)), mean + 2 * z)
    torch.testing.assert_close(move(x, x0, t, schedule(0.0), tau, z), x0)
    torch.testing.assert_close(x0_of(x, eps_of(x, x0, t), t), x0, rtol=1e-4, atol=1e-5)


def test_ddpm_variances():
    """β̃ and β of the paper at neighbours of the table, and the learned one between them in the logarithm."""
    schedule, betas = Linear(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    x, times = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([500, 499], dtype=torch.float64) / 1000
    bar = (1 - betas).cumprod(0)
    small, large = (1 - bar[498]) / (1 - bar[499]) * betas[499], betas[499]
    z = torch.ones_like(x)
    for variance, spread, want in (
        ("small", None, small),
        ("large", None, large),
        ("learned", 0.25, small**0.75 * large**0.25),
    ):
        denoise = lambda x, t, spread=spread: Denoised(x, None if spread is None else torch.full_like(x, spread))  # noqa: E731
        (step,) = sample("ddpm", denoise, x, times, schedule, variance=variance, noise=Recorded([z]))
        torch.testing.assert_close(step.x.square().squeeze(), want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [Cosine(zero_snr=True), Flow(), Linear()], ids=["zero snr", "flow", "linear"])
def test_every_sampler_on_every_end(mixture, name, schedule):
    """Finite out of α = 0, into σ = 0 and into 1/T; all steps; float32 stays float32; a row alone is that row."""
    for end in (0.0, 1 / schedule.T):
        times, path = schedule.times(6, end=end), Plain((2, 3), [1, 2, 3])

        def denoise(x, t):
            return Denoised(mixture.guess(x.double(), schedule(t)).to(x), torch.full_like(x, 0.5))

        steps = list(sample(name, denoise, start(path.start(), times[0], schedule), times, schedule, noise=path))
        assert [step.index for step in steps] == list(range(6))
        assert [float(step.t) for step in steps] == times[1:].tolist()
        assert all(step.x.isfinite().all() and step.x.dtype == torch.float32 for step in steps)
        alone = Plain((2, 3), [2])
        *_, last = sample(name, denoise, start(alone.start(), times[0], schedule), times, schedule, noise=alone)
        torch.testing.assert_close(last.x[0], steps[-1].x[1])


@pytest.mark.parametrize("name, order", [("unipc", 3), ("unipc", 4), ("lms", 5), ("deis", 4)])
def test_high_orders_build_on_nothing_guessed_without_signal(mixture, name, order):
    """Out of α = 0 the run is the one that starts one step later from where the first step led."""
    schedule = Flow()
    times, x = schedule.times(6), torch.randn(5, dtype=torch.float64)
    first, *rest = sample(name, mixture.denoise(schedule), x, times, schedule, order=order)
    later = list(sample(name, mixture.denoise(schedule), first.x, times[1:], schedule, order=order))
    torch.testing.assert_close([step.x for step in rest], [step.x for step in later])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_consumer_may_send_x_back(mixture, name):
    """What is sent is what the sampler goes on from: the next step starts at it, with no memory of the old x."""
    schedule, changed = Linear(), torch.full((3, 2), 0.25)
    times, asked = schedule.times(4), []

    def denoise(x, t):
        asked.append((float(t), x.clone()))
        return Denoised(mixture.guess(x.double(), schedule(t)).to(x))

    run = sample(name, denoise, torch.randn(3, 2), times, schedule, noise=Plain((2,), [1, 2, 3]))
    next(run)
    asked.clear()
    run.send(changed)
    assert torch.equal(asked[0][1], changed) and asked[0][0] == float(times[1])
    assert len(list(run)) == 2


def test_unipc_does_not_repair_what_was_sent(mixture):
    """The corrector starts from the x before the last move; an edit of x has to survive it."""
    schedule, edited = Linear(), torch.full((5,), 30.0, dtype=torch.float64)
    run = sample("unipc", mixture.denoise(schedule), torch.randn(5).double(), schedule.times(5), schedule)
    next(run)
    step = run.send(edited)
    (plain, *_) = sample("ddim", mixture.denoise(schedule), edited, schedule.times(5)[1:], schedule)
    assert float((step.x - plain.x).abs().max()) < 0.5 * float(plain.x.abs().max())


def test_no_gradient_is_kept_and_none_forbidden():
    """Samplers run without gradients; between their steps the caller's own mode holds."""
    w = torch.nn.Parameter(torch.tensor(0.5))
    for name in SAMPLERS:
        denoise = lambda x, t: Denoised(w * x, torch.full_like(x, 0.5))  # noqa: E731
        for step in sample(name, denoise, torch.randn(2, 2), Linear().times(3), Linear()):
            assert not step.x.requires_grad and torch.is_grad_enabled()


def test_inversion_is_the_same_function_backwards(mixture):
    """DDIM on reversed times from the first t > 0, and back again: to rounding as steps grow."""
    schedule = ScaledLinear()
    errors = []
    for steps in (50, 200):
        times = schedule.times(steps, "karras")[:-1]
        x = torch.linspace(-1, 1, 9, dtype=torch.float64)
        *_, up = ddim(mixture.denoise(schedule), x, times.flip(0), schedule)
        *_, down = ddim(mixture.denoise(schedule), up.x, times, schedule)
        errors.append(float((down.x - x).abs().max()))
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.1


def test_start_has_the_deviation_of_the_first_level():
    z = torch.randn(4, 3)
    assert torch.equal(start(z, 1.0, Linear()), z) and torch.equal(start(z, 1.0, Flow()), z)
    karras = Karras()
    torch.testing.assert_close(start(z, karras.times(5)[0], karras), 80 * z)


def test_the_list():
    for name, (function, about, options) in SAMPLERS.items():
        assert about and len(about) < 90, name
        known = inspect.signature(function).parameters
        assert set(options) <= set(known) and list(known)[:4] == ["denoise", "x", "times", "schedule"]


def test_noise_is_drawn_once_a_step_in_order():
    """The path is asked for (t, s) of each step, except into a clean s."""
    schedule, asked = Linear(), []
    times = schedule.times(5)

    def noise(t, s):
        asked.append((float(t), float(s)))
        return torch.zeros(2, 2)

    list(sample("euler_ancestral", lambda x, t: Denoised(x), torch.randn(2, 2), times, schedule, noise=noise))
    assert asked == list(pairwise(times.tolist()))[:-1]


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("dpm++2m", {}, "did you mean 'dpmpp_2m'"),
        ("ddim", {"etta": 1.0}, "did you mean 'eta'"),
        ("heun", {"eta": 1.0}, "unknown option of heun"),
        ("ddim", {"eta": -1.0}, "eta=-1"),
        ("dpmpp_2m_sde", {"eta": -1.0}, "eta=-1"),
        ("ddpm", {"variance": "big"}, "small"),
        ("ddpm", {"variance": "learned"}, "learned its variance"),
        ("dpmpp_2m", {"rule": "simpson"}, "midpoint"),
        ("unipc", {"order": 0}, "order=0"),
        ("unipc", {"rule": "bh3"}, "bh2"),
        ("lms", {"order": 0}, "order=0"),
        ("langevin", {"inner": 0}, "inner=0"),
    ],
)
def test_what_a_user_can_get_wrong(name, options, says):
    with pytest.raises(Problem, match=says.replace("+", "[+]")):
        list(sample(name, lambda x, t: Denoised(x), torch.randn(1, 1), Linear().times(3), Linear(), **options))


def test_a_run_needs_two_times():
    with pytest.raises(Problem, match="two times"):
        list(sample("ddim", lambda x, t: Denoised(x), torch.randn(1, 1), torch.tensor([1.0]), Linear()))
