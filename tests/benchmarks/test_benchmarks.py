"""Each benchmark runs on a tiny setting, so that it cannot rot; what it measures there means nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A module of benchmarks/, by its name: they are scripts, in no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("train", "quality", "peers", "efficient"):
        sys.modules.pop(name, None)


def test_train_prints_every_side_with_its_aim(benchmark, capsys):
    pytest.importorskip("diffusers")
    reached = benchmark("train").main(rounds=1, batch=1, quick=True, width=32)
    said = capsys.readouterr().out
    assert set(reached) == {"cifar", "unet", "dit"} and all(ratio > 0 for ratio in reached.values())
    assert said.count("the aim is ≥ 1.3×") == 1 and said.count("the aim is ≥ 1.6×") == 2
    assert said.count("reached") + said.count("MISSED") == 3


def test_train_compares_equal_networks(benchmark):
    pytest.importorskip("diffusers")
    train = benchmark("train")
    ours, *theirs = train.cifar_sides(32, 1, quick=True)
    assert len(theirs) == 2 and all(side.parameters == ours.parameters for side in theirs)


def test_train_takes_its_attention_from_the_one_call_site(benchmark):
    train = benchmark("train")
    asked = []

    def noted(q, k, v, *more):
        asked.append(q.shape)
        return train.sdpa(q, k, v, *more)

    train.our_side("", train.small("dit", 16), 1, "fp32", noted).step()
    assert len(asked) == 12  # six blocks, each attends to itself and to the text


def test_sdpa_is_the_same_attention(benchmark):
    from phosphene.nets.attention import attention

    q, k, v, bias = (torch.randn(2, 3, 5, 8) for _ in range(3)), None, None, torch.randn(2, 1, 1, 5)
    q, k, v = q
    torch.testing.assert_close(benchmark("train").sdpa(q, k, v, bias), attention(q, k, v, bias))


def test_quality_judges_every_side(benchmark, capsys, tmp_path):
    pytest.importorskip("diffusers")
    quality = benchmark("quality")
    tiny = {"updates": 1, "n": 6, "calls": 2, "size": 8, "pictures": 40, "judged": 1, "data": "scenes:n=40"}
    words = [f"--{name}={value}" for name, value in tiny.items()]
    best = quality.main(quality.options(["--here", "--out", str(tmp_path), *words]))
    assert {"phosphene", "diffusers"} <= set(best) and all(distance > 0 for distance in best.values())
    said = capsys.readouterr().out
    assert "random network" in said and "the aim is ≤ 0.5" in said
    assert (tmp_path / "phosphene-dpmpp_2m.png").is_file() and (tmp_path / "diffusers-DDIM.png").is_file()


def test_quality_s_distance(benchmark):
    """Of two Gaussians it is known: |Δμ|² + Σ(√a − √b)² where the covariances are diagonal."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T  # exactly white
    sd, mu = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64), torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    distance = benchmark("quality").distance
    assert distance(z, z) == pytest.approx(0, abs=1e-9)
    assert distance(z, z * sd + mu) == pytest.approx(5 + 1 + 0.25 + 4)


def test_quality_plans_what_fits(benchmark, monkeypatch):
    quality = benchmark("quality")
    now = [0.0]
    monkeypatch.setattr(quality.time, "process_time", lambda: now[0])

    def step():
        now[0] += 0.5

    assert quality.Budget(seconds=100).planned(step) == 196
    assert quality.Budget(seconds=100, updates=7).planned(step) == 7


def test_lucidrains_leaves_no_stand_in(benchmark):
    peers = benchmark("peers")
    if why := peers.why_not(peers.lucidrains):
        pytest.skip(why)
    found = sys.modules.get("torchvision")
    assert found is None or found.__spec__ is not None


def test_efficient_compares_networks_of_equal_size(benchmark, capsys):
    found = benchmark("efficient").main(width=16, side=16, batch=1, rounds=1)
    ours, theirs = found.values()
    assert abs(theirs["parameters"] / ours["parameters"] - 1) < 0.15
    assert "Times faster: forward" in capsys.readouterr().out and min(ours["forward"], theirs["step"]) > 0
