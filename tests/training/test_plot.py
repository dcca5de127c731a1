import math

import numpy as np

from phosphene.training import plot
from phosphene.training.folder import grid


def coloured(picture, colour: str) -> np.ndarray:
    """Where the sheet has this colour: (n, 2) of row, column."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(picture) == rgb).all(-1))


def test_a_falling_loss_falls_from_left_to_right():
    rows = [{"step": k, "loss/model": 2.0 * 0.99**k + 0.1} for k in range(1, 300)]
    curve = coloured(plot.losses(rows), plot.COLOURS[0])
    curve = curve[curve[:, 0] > plot.TOP]  # without the label
    left, right = curve[curve[:, 1].argmin()], curve[curve[:, 1].argmax()]
    assert left[0] < right[0] - 200 and right[1] - left[1] > 700


def test_several_turns_negative_and_wild_numbers():
    rows = [{"step": k, "loss/a": math.sin(k / 9), "loss/b": -1.0, "lr": 1} for k in range(1, 50)]
    rows[20]["loss/a"] = math.nan
    sheet = plot.losses(rows)
    assert len(coloured(sheet, plot.COLOURS[0])) and len(coloured(sheet, plot.COLOURS[1]))
    assert plot.losses([{"step": 1, "loss/a": 3.0}]) is None
    assert plot.losses([{"step": k, "loss/a": 3.0} for k in (1, 2)]) is not None  # a constant


def test_ticks_are_round_and_inside():
    assert plot.ticks(0, 60, False) == [0, 10, 20, 30, 40, 50, 60]
    assert plot.ticks(math.log10(0.02), math.log10(30), True) == [0.1, 1, 10] or all(
        0.02 <= t <= 30 for t in plot.ticks(math.log10(0.02), math.log10(30), True)
    )


def test_grid():
    import torch

    pictures = torch.stack([torch.full((3, 4, 6), v) for v in (-1.0, 0.0, 1.0, 3.0, -3.0)])
    sheet = np.asarray(grid(pictures, columns=3, gap=2))
    assert sheet.shape == (10, 22, 3)
    assert sheet[0, 0, 0] == 0 and sheet[0, 8, 0] == 128 and sheet[0, 16, 0] == 255
    assert sheet[6, 0, 0] == 255 and sheet[6, 8, 0] == 0 and sheet[9, 21, 0] == 255  # clamped; the rest is white
