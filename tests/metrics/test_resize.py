"""Resizing against Pillow's and torch's recorded results, and torch-fidelity's formula."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.errors import Problem
from phosphene.metrics.resize import antialiased, resize, rounded, torch_bilinear

WAYS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def test_is_what_was_recorded(shared):
    folder = shared / "fixtures/metrics"
    arrays = dict(np.load(folder / "resize_ref.npz"))
    assert json.loads((folder / "resize_ref.json").read_text())["size_is"] == "(width,height)"
    tried = 0
    for key, theirs in arrays.items():
        if key.endswith(".in"):
            continue
        name, how, *rest = key.split(".")
        width, height = map(int, rest[-1].split("x"))
        pictures = torch.from_numpy(arrays[f"{name}.in"])[None]
        if how in ("PILfloat", "PILuint8") and rest[0] in WAYS:
            ours = (antialiased if how == "PILfloat" else rounded)(pictures, (height, width), WAYS[rest[0]])
            theirs = theirs.clip(0, 255)
        elif how == "torch_bilinear_noaa":
            ours = torch_bilinear(pictures, (height, width))
        else:
            continue
        assert np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).max() <= 1e-3, key
        tried += 1
    assert tried > 20


def test_antialiased_is_torchs_too():
    """torch's antialiased bicubic is another implementation of the same: equal to 1e-3 grey levels."""
    pictures = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8)
    theirs = torch.nn.functional.interpolate(
        pictures.permute(0, 3, 1, 2).float(), (12, 16), mode="bicubic", antialias=True
    ).clamp(0, 255)
    assert (resize(pictures, (12, 16)) - theirs).abs().max() < 1e-3


def test_tensorflows_corner():
    """Pixel i of n comes from i·(in/n): the first is the first, and twice the size repeats and halves."""
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    assert resize(row, (1, 6), "tensorflow")[0, 0, 0].tolist() == [0, 50, 100, 150, 200, 200]
    assert resize(row, (1, 6), "torch")[0, 0, 0].tolist() == [0, 25, 75, 125, 175, 200]


def test_without_antialiasing_stripes_become_something_else():
    """Stripes of one pixel are grey from afar; a bilinear sample of them is not."""
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    assert (resize(stripes, 21)[..., 2:-2] - 127.5).abs().max() < 25
    assert (resize(stripes, 21, "torch") - 127.5).abs().max() > 100


def test_of_the_right_size_nothing_changes_and_what_is_wrong_is_said():
    pictures = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    for how in ("antialiased", "rounded", "torch", "tensorflow"):
        assert torch.equal(resize(pictures, 8, how), pictures.permute(0, 3, 1, 2).float())
    with pytest.raises(Problem, match="unknown resize 'nice'"):
        resize(pictures, 4, "nice")
    with pytest.raises(Problem, match=r"uint8 \(B, H, W, 3\) was expected"):
        resize(pictures.float(), 4)
