"""The studies of DDPM and its ancestors, on networks that have learned nothing: what they count, not what comes out."""

from __future__ import annotations

import math

import pytest
import torch

from phosphene.data.scenes import Scenes
from phosphene.diffusion.bound import variational_bound
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.schedule import Linear
from phosphene.errors import Problem
from phosphene.metrics.interval import Interval
from phosphene.recipes.parts import pictures_of
from phosphene.studies import Job, ema, noise, pictures, prediction, variance
from phosphene.studies.base import Found
from phosphene.studies.exact import exact
from phosphene.training import train
from systems.small import awake, ddpm_learned, eight


@pytest.fixture(autouse=True)
def little(monkeypatch, few_draws):
    monkeypatch.setattr(pictures, "SEEN", 32)
    monkeypatch.setattr("phosphene.studies.exact.KNOWN", 8)
    for module in (variance, prediction):
        monkeypatch.setattr(module, "HELD", 4)
    for module in (noise, variance, prediction):
        monkeypatch.setattr(module, "STEPS", (2, 3))
    monkeypatch.setattr(ema, "STEPS", 2)


def small():
    torch.manual_seed(0)
    return awake(ddpm_learned())


def found(module, job) -> Found:
    *lines, last = module.STUDY.measured(job)
    assert lines and all(isinstance(line, str) for line in lines) and isinstance(last, Found)
    assert all(len(row) == len(last.columns) for row in last.rows) and last.plot.width > 100
    return last


def test_noise():
    it = found(noise, Job({"ddpm": small()}, 2, 0))
    rows = {(name, kind, steps): scored for name, kind, steps, *scored in it.rows}
    assert len(rows) == 2 * 5 + 2 * 4 and all(0 <= scenes.low <= scenes.high <= 1 for _, scenes, _ in rows.values())
    assert rows["network", "small", 2] != rows["network", "large", 2] != rows["network", "left out", 2]
    assert it.pictures["strips"].height > it.pictures["exact"].height > 100  # one row more


def test_the_exact_denoiser_is_bayes():
    """E[x0 | x] = Σ N(x; α·X_i, σ²)·X_i / Σ N(x; α·X_i, σ²), and what it makes of noise is a picture it knows."""
    schedule = Linear(100, 1e-3, 0.1)
    system = exact(schedule, 5, sampler="ddpm")
    known, t = system.denoiser.net.pictures.double(), 0.9
    x = schedule.jump(known[:2], t, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    alpha, sigma = schedule(t)
    log_p = torch.stack([torch.distributions.Normal(alpha * k, sigma).log_prob(x).flatten(1).sum(1) for k in known], 1)
    want = torch.einsum("bn,nchw->bchw", log_p.softmax(1), known)
    torch.testing.assert_close(system.denoiser(x, torch.tensor(t).double()).x0, want, atol=1e-3, rtol=0)
    made = pictures.made(system, 2, 0, steps=50).double()
    assert (made[:, None] - known).abs().amax((2, 3, 4)).amin(1).max() < 1e-3


def test_variance_and_prediction():
    it = found(variance, Job({"ddpm": small()}, 2, 0))
    assert {row[0] for row in it.rows} == {"small", "large", "learned"} and len(it.rows) == 6
    it = found(prediction, Job({"eps": small(), "x0": small()}, 2, 0))
    assert [row[:2] for row in it.rows] == [("eps", 2), ("eps", 3), ("x0", 2), ("x0", 3)]
    assert it.rows[0][2:] == it.rows[2][2:]  # of one network, the same pictures


def test_ema(tmp_path):
    class Data:
        slots = 1

        def stream(self, start, workers=0, slots=(0,)):
            yield from ((step, [eight("none")]) for step in range(start, 9))

    with pytest.raises(Problem, match="no checkpoints"):
        found(ema, Job({"ddpm": small()}, 2, 0, {"ddpm": tmp_path}))
    list(train(small(), Data(), steps=4, checkpoint_every=2, out=tmp_path, lr=0.1, warmup=0, tensorboard=False))
    it = found(ema, Job({"ddpm": small()}, 2, 0, {"ddpm": tmp_path}))
    assert [row[:2] for row in it.rows] == [("averaged", 2), ("raw", 2), ("averaged", 4), ("raw", 4)]
    assert it.rows[0][2] != it.rows[1][2]


def test_left_out_is_left_out():
    """Without noise on the way a run is a function of its start; with it, of more."""
    system, start = small(), torch.randn(1, 3, 32, 32)

    class Path(pictures.Silent):
        def start(self, purpose="start"):
            return start

    def made(seed, silent):
        path = Path((3, 32, 32), [seed])
        if not silent:
            path.__class__ = type("Loud", (Path,), {"__call__": pictures.Plain.__call__})
        *_, last = system.generate([None], seeds=[seed], noise=path, steps=3)
        return last.picture()

    assert torch.equal(made(1, True), made(2, True)) and not torch.equal(made(1, False), made(2, False))
    two, one = pictures.made(system, 2, 5, steps=2), pictures.made(system, 1, 6, steps=2)
    torch.testing.assert_close(two[1:], one, atol=1e-3, rtol=0)
    assert not torch.equal(
        pictures.made(system, 1, 6, steps=3, variance="small"),
        pictures.made(system, 1, 6, steps=3, variance="small", silent=True),
    )


def test_strips_end_with_the_picture():
    row = pictures.strip(small(), 3, columns=4, steps=5)
    assert len(row) == 4 and row[0].tobytes() != row[-1].tobytes()


def test_the_judge_knows_scenes_from_noise():
    judge = pictures.Judge()
    real, rubbish = judge(pictures_of(Scenes(32, 16, "train", (1, 1)), 32)), judge(torch.randn(16, 3, 32, 32))
    assert real.scenes.value == 1 and rubbish.scenes.value == 0
    assert real.frechet.high < rubbish.frechet.low and real.kinds > 8 and rubbish.kinds == 0
    one = pictures_of(Scenes(32, 1, "train", (1, 1)), 32).expand(16, -1, -1, -1)
    assert judge(one).kinds == 1 and judge(one).frechet.low > real.frechet.high  # scenes, but the same one
    assert judge(torch.ones(2, 3, 32, 32)).scenes.value == 0  # white paper shows no object


def test_a_respaced_chain_has_the_levels_of_its_entries():
    schedule = Linear(100, 1e-3, 0.2)
    chain, times = variance.respaced(schedule, 7)
    entries = torch.arange(1, 8).double() / 7
    torch.testing.assert_close(chain(entries).alpha, schedule(times).alpha, rtol=1e-9, atol=0)
    assert chain.T == 7 and float(times[-1]) == 1


def test_bits_of_all_steps_are_those_of_the_bound():
    """Respaced to all its entries, a chain is itself; the small variance's bound is the plain one."""
    held = pictures_of(Scenes(32, 2, "test", (1, 1)), 32)
    denoiser = Denoiser(small().denoiser.net, Linear(12, 1e-3, 0.5), learned_variance=True)
    got = variance.bits(denoiser, held, 12, 0.0, 1)
    generator = torch.Generator().manual_seed(1)
    plain = lambda x, t: Denoised(denoiser(x, t).x0)  # noqa: E731
    noise = lambda k: torch.randn(held.shape, generator=generator)  # noqa: E731
    want = variational_bound(plain, held, denoiser.schedule, noise).total / math.log(2)
    assert got.value == pytest.approx(float(want.mean()), rel=1e-4)
    assert variance.bits(denoiser, held, 4, None, 1) != variance.bits(denoiser, held, 4, 1.0, 1)


def test_intervals_compared():
    low, mid, high = Interval(1, 0.5, 1.5), Interval(2, 1.4, 2.5), Interval(3, 2.6, 3.5)
    assert pictures.compared(low, high) == "lower" and pictures.compared(high, mid) == "higher"
    assert "overlap" in pictures.compared(low, mid)
