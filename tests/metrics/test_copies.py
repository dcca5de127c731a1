"""PSNR and SSIM against their formulas in numpy and scipy."""

import numpy as np
import pytest
import torch

from phosphene.errors import Problem
from phosphene.metrics.copies import psnr, ssim


def pair(n=3, h=24, w=31):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (n, h // 4 + 1, w // 4 + 1, 3)).repeat(4, 1).repeat(4, 2)[:, :h, :w]
    noise = smooth + rng.normal(0, [[[[5]]], [[[20]]], [[[80]]]], smooth.shape)
    return (np.rint(v).clip(0, 255).astype(np.uint8) for v in (noise, smooth))


def test_psnr():
    a, b = pair()
    theirs = 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean((1, 2, 3)))
    assert psnr(torch.from_numpy(a), torch.from_numpy(b)).numpy() == pytest.approx(theirs, rel=1e-12)
    floats = [torch.from_numpy(v).permute(0, 3, 1, 2).double() / 127.5 - 1 for v in (a, b)]
    assert psnr(*floats).numpy() == pytest.approx(theirs, rel=1e-12)
    assert psnr(floats[0], floats[0]).tolist() == [pytest.approx(100)] * 3


def test_ssim_by_scipy():
    filters = pytest.importorskip("scipy.ndimage")
    a, b = pair()

    def blur(x):
        return filters.gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    def one(x, y):
        mx, my = blur(x), blur(y)
        xx, yy, xy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        return ((2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))).mean()

    theirs = [np.mean([one(x[..., c].astype(float), y[..., c].astype(float)) for c in range(3)]) for x, y in zip(a, b)]
    ours = ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert ours.numpy() == pytest.approx(theirs, abs=1e-10)
    assert ours[0] > ours[1] > ours[2]
    assert ssim(torch.from_numpy(b), torch.from_numpy(b)).tolist() == [pytest.approx(1)] * 3


def test_what_cannot_be_compared():
    with pytest.raises(Problem, match="window of 11 pixels; the pictures are 40x8"):
        ssim(torch.zeros(1, 3, 8, 40), torch.zeros(1, 3, 8, 40))
    with pytest.raises(Problem, match=r"copies are \[1, 3, 8, 8\]"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
