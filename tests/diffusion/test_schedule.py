"""Schedules: the two ways of adding noise agree, the inverse inverts, and the times are what they say."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phosphene.diffusion.schedule import (
    SCHEDULES,
    SPACINGS,
    Cosine,
    Flow,
    Geometric,
    Karras,
    Linear,
    ScaledLinear,
    Table,
)
from phosphene.errors import Problem

TABLES = {name: kind for name, kind in SCHEDULES.items() if issubclass(kind, Table) and kind is not Geometric}


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_one_by_one_are_the_jump(name):
    """q(x_t | x_s) composed over a chain of times has the mean and the variance of q(x_t | x_0)."""
    schedule = SCHEDULES[name]()
    chain = schedule.times(25).flip(0)[1:]  # the cleanest first, without 0
    one, zero = double(1.0), double(0.0)
    mean, std = schedule.jump(one, chain[0], zero), schedule.jump(zero, chain[0], one)
    var = std**2
    for s, t in pairwise(chain):
        mean = schedule.step(mean, s, t, zero)
        var = schedule.step(one, s, t, zero) ** 2 * var + schedule.step(zero, s, t, one) ** 2
    want = schedule(chain[-1])
    torch.testing.assert_close(mean[0], want.alpha, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(var[0], want.sigma**2, rtol=1e-10, atol=1e-12)


def test_the_linear_table_is_the_papers():
    """β from 1e-4 to 0.02: a step between neighbours is √(1−β_t)·x + √β_t·ε, and ᾱ_T is the paper's 4e-5."""
    schedule, betas = Linear(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for k in (2, 500, 1000):
        s, t = (k - 1) / 1000, k / 1000
        kept, fresh = schedule.step(double(1.0), s, t, double(0.0)), schedule.step(double(0.0), s, t, double(1.0))
        torch.testing.assert_close(kept, (1 - betas[k - 1]).sqrt().view(1))
        torch.testing.assert_close(fresh, betas[k - 1].sqrt().view(1))
    assert float(schedule(1.0).alpha ** 2) == pytest.approx(4.04e-5, rel=1e-2)


def test_draws_have_the_moments_of_the_jump():
    torch.manual_seed(0)
    schedule, x0 = Cosine(), torch.full((20000,), 0.7, dtype=torch.float64)
    x = x0
    for k in range(1, 11):
        x = schedule.step(x, (k - 1) / 10, k / 10, torch.randn_like(x)) if k < 10 else x
    level = schedule(0.9)
    assert float(x.mean()) == pytest.approx(float(0.7 * level.alpha), abs=4 / 20000**0.5)
    assert float(x.var()) == pytest.approx(float(level.sigma**2), rel=0.05)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes(name):
    """q(x_s | x_t, x_0) by multiplying the two Gaussians q(x_t | x_s) and q(x_s | x_0)."""
    schedule, x, x0 = SCHEDULES[name](), double(0.8), double(-0.3)
    t, s = schedule.times(5)[1], schedule.times(5)[2]
    (a_t, sd_t), (a_s, sd_s) = schedule(t), schedule(s)
    a = a_t / a_s
    var = sd_t**2 - a**2 * sd_s**2
    precision = a**2 / var + 1 / sd_s**2
    mean, std = schedule.posterior(x, x0, t, s)
    torch.testing.assert_close(std, precision**-0.5)
    torch.testing.assert_close(mean, (a * x / var + a_s * x0 / sd_s**2) / precision)


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=50, deadline=None)
@given(share=st.floats(0.001, 0.999))
def test_at_inverts(name, share):
    schedule = SCHEDULES[name]()
    t = schedule.last + share * (schedule.first - schedule.last)
    torch.testing.assert_close(schedule.at(schedule(t).logsnr), double(t)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_grows_with_time(name):
    schedule = SCHEDULES[name]()
    t = torch.linspace(schedule.last, schedule.first, 997, dtype=torch.float64)
    logsnr = schedule(t).logsnr
    assert (logsnr.diff() < 0).all()
    alpha, sigma = schedule(0.0)
    assert (float(alpha), float(sigma)) == (1, 0) and float(schedule.at(torch.inf)) == 0


@pytest.mark.parametrize("name", TABLES)
def test_zero_terminal_snr(name):
    """The last entry is pure noise, the first is untouched, and √ᾱ was only shifted and scaled (Lin et al. 2023)."""
    plain, rescaled = TABLES[name](), TABLES[name](zero_snr=True)
    entries = torch.arange(1, 1001) / 1000
    a, b = plain(entries).alpha, rescaled(entries).alpha
    assert float(b[-1]) == 0 and float(rescaled(1.0).sigma) == 1
    torch.testing.assert_close(b[0], a[0], rtol=1e-12, atol=0)
    torch.testing.assert_close((a - b).diff() / a.diff(), ((a - b)[-1] - (a - b)[0]).expand(999) / (a[-1] - a[0]))


def test_a_times_of_float32_are_entries_too():
    schedule = Cosine(zero_snr=True)
    entries = torch.arange(1, 1001)
    torch.testing.assert_close(schedule((entries / 1000).float()), schedule(entries.double() / 1000))


@pytest.mark.parametrize("name", SCHEDULES)
def test_draws(name):
    torch.manual_seed(0)
    schedule = SCHEDULES[name]()
    t = schedule.draw(4000)
    assert t.shape == (4000,) and t.dtype == torch.float64
    assert (t > 0).all() and (t <= 1).all()
    if isinstance(schedule, Karras):
        ln = schedule(t).sigma.log()
        assert float(ln.mean()) == pytest.approx(-1.2, abs=0.1) and float(ln.std()) == pytest.approx(1.2, abs=0.1)
    else:
        assert float(t.mean()) == pytest.approx(0.5, abs=0.03)
    if isinstance(schedule, Table):
        assert set((t * 1000).round().long().tolist()) <= set(range(1, 1001)) and (t == 1).any()


def test_flow_draws_logit_normal_and_shifts():
    torch.manual_seed(0)
    t = Flow(draws="logit_normal", mean=0.5, std=0.8).draw(20000)
    assert float(t.logit().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(t.logit().std()) == pytest.approx(0.8, abs=0.03)
    assert Flow(shift=3.0).times(4).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    torch.manual_seed(0)
    plain = Flow().draw(10)
    torch.manual_seed(0)
    torch.testing.assert_close(Flow(shift=3.0).draw(10), 3 * plain / (1 + 2 * plain))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 4, 7, 50])
def test_times(name, spacing, steps):
    schedule = SCHEDULES[name]()
    if isinstance(schedule, Flow) and spacing in ("karras", "exponential"):
        with pytest.raises(Problem, match="trailing"):
            schedule.times(steps, spacing)
        return
    times = schedule.times(steps, spacing)
    assert times.shape == (steps + 1,) and times.dtype == torch.float64
    assert (times.diff() < 0).all() and times[-1] == 0
    if spacing != "leading":
        assert float(times[0]) == pytest.approx(schedule.first, rel=1e-12)


def test_karras_times_are_equation_5():
    ramp = torch.linspace(0, 1, 18, dtype=torch.float64)
    want = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    schedule = Karras()
    torch.testing.assert_close(schedule(schedule.times(18)[:-1]).sigma, want, rtol=1e-10, atol=0)


def test_spacings_are_diffusers(shared):
    """Table entries k − 1 for every recorded number of steps of DDIM, whose convention is the plain one."""
    table = json.loads((shared / "fixtures" / "schedulers" / "timestep_spacing.json").read_text())
    compared = 0
    for key, want in table.items():
        if not key.startswith("DDIM "):
            continue
        _, spacing, offset, n = key.split()
        offset, n = int(offset.partition("=")[2]), int(n.partition("=")[2])
        if n == 1 and spacing == "linspace":  # theirs starts at the clean end
            continue
        if spacing == "leading" and 1 + offset + (n - 1) * (1000 // n) > 1000:
            with pytest.raises(Problem, match="offset=1"):
                Linear().times(n, spacing, offset=offset)
            continue
        got = (Linear().times(n, spacing, offset=offset if spacing == "leading" else 0)[:-1] * 1000 - 1).round()
        got = got.tolist()  # long lists are recorded by their ends and length
        assert (got if n <= 100 else [*got[:2], *got[-2:], len(got)]) == want, key
        compared += 1
    assert compared > 20


def test_tables_are_diffusers(shared):
    tables = np.load(shared / "fixtures" / "schedulers" / "schedule_tables.npz")
    kinds = {"linear": Linear(), "scaled_linear": ScaledLinear(), "squaredcos_cap_v2": Cosine()}
    zero = {"linear": Linear(zero_snr=True), "scaled_linear": ScaledLinear(zero_snr=True)}
    entries = torch.arange(1, 1001) / 1000
    for prefix, made in (("alphas_cumprod", kinds), ("zsnr_alphas_cumprod", zero)):
        for name, schedule in made.items():
            want = torch.from_numpy(tables[f"{prefix}.{name}"]).double()
            torch.testing.assert_close(schedule(entries).alpha ** 2, want, rtol=2e-4, atol=2e-7)
    sigmoid = torch.from_numpy(tables["betas.sigmoid"]).double()
    table = SCHEDULES["sigmoid"]()(entries)
    torch.testing.assert_close(1 - (table.alpha[1:] / table.alpha[:-1]) ** 2, sigmoid[1:], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Linear().times(0), "at least 1"),
        (lambda: Linear().times(2.5), "whole number"),
        (lambda: Linear().times(10, "trialing"), "did you mean 'trailing'"),
        (lambda: Linear().times(1001, "leading"), "T=1000"),
        (lambda: Linear().times(1001), "T=1000"),
        (lambda: Linear().times(1000, "leading", offset=1), "offset=1"),
        (lambda: Cosine(zero_snr=True).times(10, "karras"), "trailing"),
        (lambda: Linear()(0.0005), "1/1000"),
        (lambda: Linear()(1.5), "≤ 1"),
        (lambda: Linear(T=1), "at least 2"),
        (lambda: Table([0.1, 1.2]), "between 0 and 1"),
        (lambda: Table([0.1]), "at least 2"),
        (lambda: Karras(sigma_min=2, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: Flow(draws="normal"), "logit_normal"),
        (lambda: Flow(shift=0), "positive"),
    ],
)
def test_what_a_user_can_get_wrong(call, says):
    with pytest.raises(Problem, match=says):
        call()
