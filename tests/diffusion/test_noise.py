"""A picture's noise depends on its seed and the stage's name, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.denoiser import Denoised
from phosphene.diffusion.noise import Plain, Recorded, Tree
from phosphene.diffusion.samplers import sample
from phosphene.diffusion.schedule import Karras
from phosphene.errors import Problem

SHAPE = (3, 5, 4)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kind", [Plain, Tree])
def test_not_on_the_batch(kind):
    together, alone, swapped = kind(SHAPE, [7, 8, 9]), kind(SHAPE, [8]), kind(SHAPE, [9, 8])
    for path_a, path_b, i, j in ((together, alone, 1, 0), (kind(SHAPE, [7, 8, 9]), swapped, 2, 0)):
        assert torch.equal(path_a.start()[i], path_b.start()[j])
        for t, s in ((0.9, 0.6), (0.6, 0.1)):
            assert torch.equal(path_a(*times(t, s))[i], path_b(*times(t, s))[j])


@pytest.mark.parametrize("kind", [Plain, Tree])
def test_seeds_and_stages_differ(kind):
    draws = [kind(SHAPE, [seed], stage).start() for seed in (1, 2, -1, 2**63) for stage in ("", "base", "upsampler")]
    draws += [kind(SHAPE, [1])(*times(0.5, 0.2))]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[:i])


@pytest.mark.parametrize("kind", [Plain, Tree])
def test_the_start_does_not_depend_on_the_steps_before_it(kind):
    early, late = kind(SHAPE, [3]), kind(SHAPE, [3])
    late(*times(0.9, 0.5))
    assert torch.equal(early.start(), late.start())


@pytest.mark.parametrize("kind", [Plain, Tree])
def test_unit_variance_and_independence(kind):
    path = kind((200, 100), [0])
    a, b = path(*times(0.9, 0.35)), path(*times(0.35, 0.11))
    for increment in (a, b):
        assert float(increment.mean()) == pytest.approx(0, abs=0.03) and float(increment.var()) == pytest.approx(
            1, abs=0.05
        )
    assert float((a * b).mean()) == pytest.approx(0, abs=0.03)


def test_the_tree_is_one_path_at_any_number_of_steps():
    """Increments add up: W(1) − W(0) is the same in one step and in many, in any order."""
    grid = torch.cat([torch.rand(5, generator=torch.Generator().manual_seed(0)).double().sort().values, times(1.0)])
    whole = Tree(SHAPE, [5, 6])(times(1.0)[0], grid[0])
    path = Tree(SHAPE, [5, 6])
    pieces = {i: path(grid[i + 1], grid[i]) * (grid[i + 1] - grid[i]).sqrt() for i in (4, 0, 2, 1, 3)}
    total = sum(pieces[i] for i in range(5))
    torch.testing.assert_close(total.float(), whole * (1 - grid[0]).sqrt().float(), rtol=1e-3, atol=1e-3)


def test_more_steps_on_the_tree_come_nearer_to_one_picture(mixture):
    """With one path per picture an SDE solver converges to one picture; with fresh draws it would not."""
    schedule, x = Karras(), 80 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def picture(steps, kind):
        path = kind((64,), [0])
        *_, last = sample("dpmpp_2m_sde", mixture.denoise(schedule), x, schedule.times(steps), schedule, noise=path)
        return last.x

    far, near = (float((picture(n, Tree) - picture(2 * n, Tree)).square().mean().sqrt()) for n in (10, 60))
    fresh = float((picture(60, Plain) - picture(120, Plain)).square().mean().sqrt())
    assert near < 0.5 * far and near < 0.3 * fresh


def test_recorded():
    arrays = [torch.randn(2, 3) for _ in range(2)]
    path = Recorded(arrays, first=torch.ones(2, 3))
    assert torch.equal(path.start(), torch.ones(2, 3))
    assert all(torch.equal(path(*times(0.5, 0.4)), a) for a in arrays)
    with pytest.raises(Problem, match="2 increments"):
        path(*times(0.5, 0.4))
    with pytest.raises(Problem, match="first"):
        Recorded(arrays).start()


def test_a_tree_has_a_finest_step():
    with pytest.raises(Problem, match="closer"):
        Tree(SHAPE, [1], depth=8)(*times(0.5, 0.5001))


def test_a_sampler_makes_the_same_picture_in_any_batch():
    schedule = Karras()
    denoise = lambda x, t: Denoised(x / (1 + schedule(t).sigma.float() ** 2))  # noqa: E731

    def pictures(seeds):
        path = Plain(SHAPE, seeds)
        *_, last = sample("euler_ancestral", denoise, 80 * path.start(), schedule.times(6), schedule, noise=path)
        return last.x

    assert torch.equal(pictures([11, 12, 13])[1], pictures([12])[0])
