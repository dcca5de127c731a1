"""Editing around samplers, on data whose best denoiser is known."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.denoiser import Denoised
from phosphene.diffusion.editing import between, from_picture, inverted, keep
from phosphene.diffusion.samplers import SAMPLERS, ddim, sample
from phosphene.diffusion.schedule import Cosine, Flow, Geometric, ScaledLinear
from phosphene.errors import Problem


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_from_a_picture_is_the_jump_to_a_time_of_the_run():
    schedule, x0, z = Cosine(), noise(2, 3), noise(2, 3, seed=1)
    times = schedule.times(10)
    for strength, steps in ((1.0, 10), (0.5, 5), (0.31, 3), (0.01, 1)):
        x, rest = from_picture(x0, strength, times, schedule, z)
        assert torch.equal(rest, times[-(steps + 1) :])
        torch.testing.assert_close(x, schedule.jump(x0, rest[0], z))
    x, _ = from_picture(x0, 1.0, Flow().times(10), Flow(), z)
    assert torch.equal(x, z)


def test_weak_edits_keep_the_picture(mixture):
    schedule, x0 = ScaledLinear(), noise(8, 16).sign() * 0.8
    moved = []
    for strength in (0.1, 0.4, 0.9):
        x, times = from_picture(x0, strength, schedule.times(40), schedule, noise(8, 16, seed=1))
        *_, last = sample("dpmpp_2m", mixture.denoise(schedule), x, times, schedule)
        moved.append(float((last.x - x0).square().mean()))
    assert moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_the_mask_keeps_is_kept(mixture, name):
    schedule, known = ScaledLinear(), noise(2, 1, 4, 4, seed=2)
    mask, z, times = torch.zeros(1, 1, 4, 4), noise(2, 1, 4, 4), schedule.times(5)
    mask[..., :2] = 1

    def denoise(x, t):
        return Denoised(mixture.guess(x, schedule(t)), torch.full_like(x, 0.5))

    asked = []
    run = sample(name, lambda x, t: (asked.append((t, x)), denoise(x, t))[1], z.clone(), times, schedule)
    steps = list(keep(run, known, mask, schedule, z))
    assert [step.index for step in steps] == list(range(5))
    torch.testing.assert_close(steps[-1].x[..., :2], known[..., :2])
    assert float((steps[-1].x - known)[..., 2:].abs().min()) > 0
    for step in steps[:-1]:  # and the sampler went on from it
        heard = [x for t, x in asked if t == step.t]
        assert any(torch.equal(x, step.x) for x in heard)


def test_a_consumer_of_keep_may_send_x_back(mixture):
    schedule, z, edited = ScaledLinear(), noise(2, 4), torch.full((2, 4), 0.1, dtype=torch.float64)
    asked = []
    denoise = lambda x, t: (asked.append(x), Denoised(mixture.guess(x, schedule(t))))[1]  # noqa: E731
    run = keep(ddim(denoise, z, schedule.times(3), schedule), z, torch.zeros(1), schedule, z)
    next(run)
    run.send(edited)
    assert torch.equal(asked[1], edited)


@pytest.mark.parametrize("schedule", [ScaledLinear(), Geometric(1000, 0.02, 30.0)], ids=["preserving", "exploding"])
def test_inversion_finds_the_noise(mixture, schedule):
    times, x0 = schedule.times(200, "karras"), noise(64).clamp(-1.5, 1.5)
    *_, up = ddim(mixture.denoise(schedule), x0, inverted(times), schedule)
    level = schedule(times[0])
    exact = mixture.carried(x0, schedule(inverted(times)[0]), level)
    assert float((up.x - exact).abs().max() / torch.hypot(*level)) < 0.1
    *_, back = ddim(mixture.denoise(schedule), up.x, times[:-1], schedule)
    assert float((back.x - x0).abs().max()) < 0.1


def test_between_two_noises():
    a, b = noise(3, 4, 50, 50), noise(3, 4, 50, 50, seed=1)
    assert torch.allclose(between(a, b, 0.0), a) and torch.allclose(between(a, b, 1.0), b)
    for share in (0.25, 0.5):
        assert float(between(a, b, share).var()) == pytest.approx(1, abs=0.03)
    assert torch.allclose(between(a, a, 0.3), a)
    torch.testing.assert_close(between(a, b, 0.5)[1:2], between(a[1:2], b[1:2], 0.5))


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5])
def test_what_a_user_can_get_wrong(strength):
    with pytest.raises(Problem, match="strength="):
        from_picture(noise(1, 1), strength, Cosine().times(4), Cosine(), noise(1, 1))
    with pytest.raises(Problem, match="two steps"):
        inverted(Cosine().times(1))
