"""Distances between sets of features against other tools' values, their formulas restated, and closed forms."""

import json

import numpy as np
import pytest
import torch

from phosphene.errors import Problem
from phosphene.metrics.frechet import Moments, frechet
from phosphene.metrics.inception_score import inception_score
from phosphene.metrics.kernel import kernel_distance, mmd2
from phosphene.metrics.manifold import manifold, manifold_intervals


@pytest.fixture(scope="module")
def recorded(shared):
    folder = shared / "fixtures/metrics"
    return dict(np.load(folder / "metrics_inputs.npz")), json.loads((folder / "metrics_ref.json").read_text())


def features(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def distance(a, b) -> float:
    return frechet(Moments.of(torch.as_tensor(a)), Moments.of(torch.as_tensor(b)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_frechet_is_that_of_the_other_tools(recorded, dtype):
    """Few samples, fewer than dimensions, singular and constant features: pytorch-fid, clean-fid, torch-fidelity."""
    arrays, told = recorded
    for name, cases in told["fid"].items():
        if dtype not in cases:
            continue
        ours = distance(*(arrays[f"{name}.{side}"].astype(dtype) for side in "ab"))
        for tool, theirs in cases[dtype].items():
            if isinstance(theirs, float):  # some break down on one feature
                assert ours == pytest.approx(theirs, rel=1e-6, abs=2e-6), (name, tool)


def test_frechet_of_gaussians_in_closed_form():
    """Diagonal covariances: Σ (μ₁ − μ₂)² + (σ₁ − σ₂)²; and nothing between a set and itself."""
    x = features(4000, 5, 0)
    scale, shift = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0]), torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0])
    own = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # exactly white
    assert distance(own, own * scale + shift) == pytest.approx(float(((scale - 1) ** 2 + shift**2).sum()), rel=1e-9)
    assert distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_by_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = features(60, 12, 1), 0.5 * features(80, 12, 2) + 0.3
    ca, cb = (np.cov(v.numpy(), rowvar=False) for v in (a, b))
    root = linalg.sqrtm(ca @ cb).real
    theirs = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(ca + cb - 2 * root)
    assert distance(a, b) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("n, m", [(5, 9), (2, 2), (40, 3), (30, 30)], ids=str)
def test_frechet_of_few_samples_and_dead_features_by_its_formula(n, m):
    """tr (Σ₁Σ₂)^½ as the sum of the roots of Σ₁Σ₂'s own eigenvalues, in numpy: singular on one side or both."""
    a, b = features(n, 12, 1).numpy(), 2 * features(m, 12, 2, shift=0.4).numpy()
    a[:, 3], b[:, 3], b[:, 7] = 1.5, 1.5, -0.5  # one feature dead on both sides, another on one
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(ca @ cb).real.clip(0))
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * roots.sum()
    assert distance(a, b) == pytest.approx(theirs, rel=1e-6)  # roots of rounding errors: √1e-16
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-6)


def test_moments_do_not_depend_on_batches_or_processes():
    x = features(301, 7, 3, shift=1000.0)
    whole, parts, other = Moments.of(x), Moments(7), Moments(7)
    for batch in x[:120].split(17):
        parts.add(batch)
    for batch in x[120:].split(50):
        other.add(batch)
    parts.merge(other).merge(Moments(7))
    assert parts.n == 301
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.covariance, x.T.cov(), rtol=1e-9, atol=1e-9)


def test_moments_say_what_is_wrong():
    with pytest.raises(Problem, match="NaN"):
        Moments.of(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(Problem, match=r"\[2, 3\]; \(N, 4\)"):
        Moments(4).add(torch.zeros(2, 3))
    with pytest.raises(Problem, match="at least 2 pictures, not 1"):
        distance(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(Problem, match="features of 2 and of 3"):
        distance(torch.randn(9, 2), torch.randn(9, 3))


def test_kernel_distance_is_that_of_the_other_tools(recorded):
    arrays, told = recorded
    x, y = (torch.as_tensor(arrays[key]) for key in ("kid.x", "kid.y"))
    kid = told["kid"]
    assert mmd2(x, y) == pytest.approx(kid["exact unbiased MMD2 on the whole sets"], rel=1e-9)
    assert kernel_distance(x, y) == (pytest.approx(kid["exact unbiased MMD2 on the whole sets"], rel=1e-9), 0)
    key = "torch_fidelity subset_size=100 subsets=50 rng_seed=2020"
    draws = np.random.RandomState(2020)
    theirs = [mmd2(*(f[torch.from_numpy(draws.choice(len(f), 100, replace=False))] for f in (x, y))) for _ in range(50)]
    assert (np.mean(theirs), np.std(theirs)) == (
        pytest.approx(kid[key]["mean"], rel=2e-5),  # which calculates in float32
        pytest.approx(kid[key]["std"], rel=2e-5),
    )
    ours = kernel_distance(x, y, size=100, subsets=200)
    assert ours.mean == pytest.approx(kid[key]["mean"], abs=4 * ours.std / 50**0.5)
    assert ours == kernel_distance(x, y, size=100, subsets=200) != kernel_distance(x, y, size=100, subsets=200, seed=1)


def test_kernel_distance_by_its_definition():
    x, y = features(9, 4, 5), features(7, 4, 6, shift=0.4)
    k = lambda a, b: float((a @ b / 4 + 1) ** 3)  # noqa: E731
    own = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (9 * 8)
    own += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (7 * 6)
    assert mmd2(x, y) == pytest.approx(own - 2 * np.mean([k(a, b) for a in x for b in y]), rel=1e-9)
    with pytest.raises(Problem, match="at least 2 pictures of each kind, not 9 and 1"):
        mmd2(x, y[:1])


def test_inception_score_is_torch_fidelitys(recorded):
    arrays, told = recorded
    logits = torch.as_tensor(arrays["is.logits"])
    for splits in (1, 10):
        theirs = told["inception_score"][f"torch_fidelity splits={splits} shuffle=False rng_seed=2020"]
        ours = inception_score(logits, splits=splits, seed=None)
        assert ours == (pytest.approx(theirs["mean"], rel=1e-6), pytest.approx(theirs["std"], rel=1e-6, abs=1e-9))
        order = np.random.RandomState(2020).permutation(len(logits))
        theirs = told["inception_score"][f"torch_fidelity splits={splits} shuffle=True rng_seed=2020"]
        ours = inception_score(logits[torch.from_numpy(order)], splits=splits, seed=None)
        assert ours == (pytest.approx(theirs["mean"], rel=1e-6), pytest.approx(theirs["std"], rel=1e-6, abs=1e-9))


def test_inception_score_in_closed_form():
    """Sure and even over K classes: K. All alike: 1."""
    sure = 1e3 * torch.eye(6).repeat(10, 1)
    assert inception_score(sure, splits=1).mean == pytest.approx(6)
    assert inception_score(torch.zeros(60, 6), splits=3) == (pytest.approx(1), pytest.approx(0))
    with pytest.raises(Problem, match="3 pictures cannot be split into 10"):
        inception_score(torch.zeros(3, 6))


def test_inception_score_by_its_formula():
    logits = features(40, 7, 3).numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    theirs = [np.exp((x * np.log(x / x.mean(0))).sum(1).mean()) for x in np.split(p, 4)]
    ours = inception_score(torch.from_numpy(logits), splits=4, seed=None)
    assert ours == (pytest.approx(np.mean(theirs), rel=1e-9), pytest.approx(np.std(theirs), rel=1e-9))


def test_density_and_coverage_by_their_formulas():
    """Naeem et al. 2020, equations 3 and 4, over all pairs."""
    real, made, k = features(30, 3, 1).numpy(), features(20, 3, 2, shift=0.7).numpy(), 4
    apart = lambda x, y: np.sqrt(((x[:, None] - y) ** 2).sum(-1))  # noqa: E731
    balls = apart(made, real) < np.sort(apart(real, real), 1)[:, k]  # (M, N); place 0 is the sample itself
    found = manifold(torch.from_numpy(real), torch.from_numpy(made), k)
    assert found.density == pytest.approx(balls.sum() / (k * 20)) and found.coverage == pytest.approx(
        balls.any(0).mean()
    )
    assert found.precision == pytest.approx(balls.any(1).mean()) and 0 < found.coverage < 1


def test_intervals_of_shares_are_those_of_repeated_measurement():
    """For fresh pictures of the same kind: the width by groups is that of what one finds again and again."""
    real = features(300, 3, 0)
    names = manifold(real, real, 3)._fields
    found = np.array([manifold(real, features(200, 3, seed, shift=0.5), 3) for seed in range(1, 101)])
    its = [manifold_intervals(real, features(200, 3, seed, shift=0.5), 3) for seed in range(1, 11)]
    assert its[0] == manifold_intervals(real, features(200, 3, 1, shift=0.5), 3)  # a function of its seed
    for name, values in zip(names, found.T):
        half = np.mean([(it[name].high - it[name].low) / 2 for it in its])
        assert half == pytest.approx(1.96 * values.std(ddof=1), rel=0.5), name
        assert its[0][name].value == pytest.approx(values[0])
    few = manifold_intervals(real, real[:7] + 1e-9, 3)
    assert few["precision"] == (1, 1, 1) and few["coverage"].low >= 0


def test_precision_and_recall_are_the_recorded_ones(recorded):
    arrays, told = recorded
    real, made = torch.as_tensor(arrays["relu_500x64.a"]), torch.as_tensor(arrays["relu_500x64.b"] + 0.3)
    cases = {key: value for key, value in told["precision_recall"].items() if key != "api"}
    for (_, theirs), k in zip(cases.items(), (3, 5), strict=True):
        assert manifold(real, made, k)._asdict() == pytest.approx(theirs)


def test_precision_and_recall_of_what_is_known():
    """Real pictures of two kinds: made ones of one kind are all good, and half of what there is."""
    real = torch.cat([features(200, 3, 7), features(200, 3, 8, shift=100)])
    one = manifold(real, real[:200] + 1e-9)
    assert one == (1, 0.5, pytest.approx(1, abs=0.25), 0.5)
    none = manifold(real, real + 1000)
    assert none == (0, 0, 0, 0)
    with pytest.raises(Problem, match="k=5 neighbours of 400 real and 5 made"):
        manifold(real, real[:5])
