"""The table of predictions, and Algorithm 1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import P2, PREDICTIONS, Denoiser, MinSnr, Snr, clean, target
from phosphene.diffusion.schedule import SCHEDULES, Cosine, Flow, Karras, Level, Linear
from phosphene.errors import Problem
from phosphene.parts import part

floats = st.floats(-3, 3)
logsnrs = st.floats(-12, 12)


def level_at(logsnr, kind):
    """A variance-preserving, a variance-exploding and a straight level of the same signal-to-noise."""
    ratio = torch.tensor(-0.5 * logsnr, dtype=torch.float64).exp()
    alpha = {"preserving": 1 / (1 + ratio**2).sqrt(), "exploding": torch.ones_like(ratio), "straight": 1 / (1 + ratio)}[
        kind
    ]
    return Level(alpha, alpha * ratio)


@pytest.mark.parametrize("predicts", PREDICTIONS)
@settings(max_examples=100, deadline=None)
@given(logsnr=logsnrs, kind=st.sampled_from(["preserving", "exploding", "straight"]), x0=floats, eps=floats)
def test_target_means_x0(predicts, logsnr, kind, x0, eps):
    """x0 → a·x0 + b·ε → x0, at random levels of three kinds, for each of the five."""
    level = level_at(logsnr, kind)
    x0, eps = (torch.tensor([[v]], dtype=torch.float64) for v in (x0, eps))
    x = level.alpha * x0 + level.sigma * eps
    back = clean(predicts, level, x, target(predicts, level, x0, eps))
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-12 * float(1 + level.ratio) ** 2 * 10)


@settings(max_examples=50, deadline=None)
@given(
    logsnr=logsnrs, first=st.sampled_from(sorted(PREDICTIONS)), second=st.sampled_from(sorted(PREDICTIONS)), out=floats
)
def test_every_output_can_be_said_in_another_prediction(logsnr, first, second, out):
    """Reading an output, and writing the same guess in another row, is the same guess."""
    level = level_at(logsnr, "preserving")
    x, out = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[out]], dtype=torch.float64)
    x0 = clean(first, level, x, out)
    eps = (x - level.alpha * x0) / level.sigma
    again = clean(second, level, x, target(second, level, x0, eps))
    torch.testing.assert_close(again, x0, rtol=1e-6, atol=1e-6 * float(1 + level.ratio))


def test_the_rows_are_the_papers():
    level, x0, eps = Cosine()(0.4), torch.tensor([[0.3]]).double(), torch.tensor([[-1.1]]).double()
    alpha, sigma = level
    assert torch.equal(target("eps", level, x0, eps), eps) and torch.equal(target("x0", level, x0, eps), x0)
    torch.testing.assert_close(target("v", level, x0, eps), alpha * eps - sigma * x0)
    torch.testing.assert_close(target("flow", level, x0, eps), eps - x0)
    # Karras et al.: D(x) = c_skip·x + c_out·F, with σ_data = ½
    sigma = torch.tensor(3.0, dtype=torch.float64)
    level, x, out = Level(torch.ones_like(sigma), sigma), x0 + sigma * eps, torch.tensor([[0.2]]).double()
    c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(clean("edm", level, x, out), c_skip * x + c_out * out)


@part
class Says(nn.Module):
    """A network of one parameter that remembers what it was asked."""

    def __init__(self, twice: bool = False):
        super().__init__()
        self.w, self.twice, self.asked = nn.Parameter(torch.tensor(0.5)), twice, None

    def forward(self, x, time, cond):
        self.asked = (x, time, cond)
        out = self.w * x
        return torch.cat([out, 0.4 * out], dim=1) if self.twice else out


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "flow"])
def test_the_simple_loss_is_algorithm_1(predicts):
    schedule, net = Linear(), Says()
    denoiser, x0, eps = Denoiser(net, schedule, predicts), torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    t = torch.tensor([1, 10, 500, 1000], dtype=torch.float64) / 1000
    level = schedule(t)
    alpha, sigma = level.onto(x0)
    x = alpha * x0 + sigma * eps
    loss = denoiser.loss(x0, t=t, eps=eps)
    assert loss.shape == (4,) and loss.dtype == torch.float32
    torch.testing.assert_close(loss, (target(predicts, level, x0, eps) - 0.5 * x).square().mean((1, 2, 3)))
    assert net.asked[1].tolist() == pytest.approx([0, 9, 499, 999], abs=1e-3)
    loss.sum().backward()
    assert net.w.grad is not None


def test_where_weighs_the_error():
    denoiser, x0 = Denoiser(Says(), Linear()), torch.randn(2, 3, 4, 4)
    t, eps, where = torch.tensor([0.2, 0.7]), torch.randn(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    assert denoiser.loss(x0, t=t, eps=eps, where=where).sum() == 0
    where[:, :, 0] = 4.0
    masked = denoiser.loss(x0[:, :, :1], t=t, eps=eps[:, :, :1])
    torch.testing.assert_close(denoiser.loss(x0, t=t, eps=eps, where=where), masked)


@pytest.mark.parametrize("weight", [Snr(), MinSnr(5.0), P2()])
@pytest.mark.parametrize("kind", [Linear, Flow, Karras])
def test_no_weight_knows_the_prediction(weight, kind):
    """Networks that mean the same x0 have the same weighted loss, whatever they predict: weight(logsnr)·|x0 − x̂0|²."""
    schedule, x0 = kind(), torch.randn(8, 2, 3, 3).double()
    t = schedule.draw(8)
    eps, wrong = torch.randn_like(x0), torch.randn_like(x0)
    level = schedule(t)
    want = weight(level.logsnr) * wrong.square().mean((1, 2, 3))
    for predicts in PREDICTIONS:
        if predicts == "eps" and kind is Flow:
            continue
        alpha, sigma = level.onto(x0)
        x = alpha * x0 + sigma * eps

        @part
        class Means(nn.Module):
            def forward(self, _, time, cond, predicts=predicts, alpha=alpha, sigma=sigma, x=x):
                guess = x0 + wrong
                return target(predicts, level, guess, (x - alpha * guess) / sigma)

        got = Denoiser(Means(), schedule, predicts, weight).loss(x0, t=t, eps=eps)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_snr_is_the_simple_loss_and_min_snr_never_more():
    x0, t = torch.randn(6, 1, 4, 4), torch.linspace(0.05, 1, 6, dtype=torch.float64)
    eps, net = torch.randn_like(x0), Says()
    simple = Denoiser(net, Linear()).loss(x0, t=t, eps=eps)
    torch.testing.assert_close(
        Denoiser(net, Linear(), weight="snr").loss(x0, t=t, eps=eps), simple, rtol=1e-5, atol=1e-8
    )
    shortened = Denoiser(net, Linear(), weight=MinSnr(5.0)).loss(x0, t=t, eps=eps)
    assert (shortened <= simple * 1.0001).all() and shortened[0] < 0.2 * simple[0]


def test_the_edm_row_scales_its_input():
    net, schedule = Says(), Karras()
    denoiser, x = Denoiser(net, schedule, "edm"), torch.randn(2, 3, 4, 4)
    t = schedule.at(-2 * torch.tensor(2.0).log())
    guess = denoiser(x, t).x0
    scaled = x / (0.25 + 4.0) ** 0.5
    torch.testing.assert_close(net.asked[0], scaled)
    assert float(net.asked[1]) == pytest.approx(torch.tensor(2.0).log().item() / 4)
    torch.testing.assert_close(guess, 0.25 / 4.25 * x + 2 * 0.5 / 4.25**0.5 * 0.5 * scaled)


def test_the_door_casts():
    """A bfloat16 network is asked in bfloat16, told the time in float32, and answers in x's float32."""
    net = Says().to(torch.bfloat16)
    denoiser = Denoiser(net, Cosine(), "v")
    cond = Cond(tokens=torch.randn(2, 3, 4), mask=torch.ones(2, 3, dtype=torch.bool))
    guess = denoiser(torch.randn(2, 3, 4, 4), torch.tensor(0.999), cond).x0
    x, time, told = net.asked
    assert x.dtype == told.tokens.dtype == torch.bfloat16 and told.mask.dtype == torch.bool
    assert time.dtype == guess.dtype == torch.float32 and float(time) == pytest.approx(998)


def test_output_inverts_read():
    for predicts in PREDICTIONS:
        denoiser = Denoiser(Says(), Karras(), predicts)
        x, t, out = torch.randn(2, 1, 3, 3).double(), torch.tensor(0.6).double(), torch.randn(2, 1, 3, 3).double()
        torch.testing.assert_close(denoiser.output(x, t, denoiser.read(x, t, out)), out)


def test_learned_variance_is_half_the_channels():
    net = Says(twice=True)
    denoiser = Denoiser(net, Linear(), learned_variance=True)
    x = torch.randn(2, 3, 4, 4)
    guess = denoiser(x, torch.tensor(0.5))
    assert guess.x0.shape == guess.spread.shape == x.shape
    torch.testing.assert_close(guess.spread, (0.2 * x + 1) / 2)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Denoiser(Says(), Linear(), "epsilon"), "unknown prediction"),
        (lambda: Denoiser(Says(), Linear(), "eps", "min-snr"), "did you mean 'min_snr'"),
        (lambda: Denoiser(Says(), Flow(), "eps"), "no signal"),
        (lambda: Denoiser(Says(), Cosine(zero_snr=True)), "no signal"),
        (lambda: Denoiser(Says(), Flow(), "flow", "bound"), "continuous"),
        (lambda: Denoiser(Says(), Karras(), "edm", learned_variance=True), "continuous"),
    ],
)
def test_what_a_user_can_get_wrong(call, says):
    with pytest.raises(Problem, match=says):
        call()


@pytest.mark.parametrize("name", SCHEDULES)
def test_denoisers_are_parts(name):
    """What a bundle writes down: plain values and other parts."""
    denoiser = Denoiser(Says(), SCHEDULES[name](), "x0", MinSnr(3.0))
    assert denoiser.arguments["schedule"] is denoiser.schedule and denoiser.arguments["weight"].arguments == {
        "gamma": 3.0
    }
    remade = type(denoiser.schedule)(**denoiser.schedule.arguments)
    torch.testing.assert_close(remade(0.5), denoiser.schedule(0.5))
