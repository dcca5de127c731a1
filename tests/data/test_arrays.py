"""MNIST's .npz and its like."""

from pathlib import Path

import numpy as np
import pytest

from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.errors import Problem


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (n, 28, 28), np.uint8) for s, n in (("train", 20), ("test", 5))}
    np.savez(
        tmp_path / "m.npz", **arrays, y_train=np.arange(20, dtype=np.uint8) % 10, y_test=np.arange(5, dtype=np.uint8)
    )
    return str(tmp_path / "m.npz"), arrays


def test_mnist_is_padded_to_32(mnist):
    path, arrays = mnist
    source = open_source(path)
    assert len(source) == 20 and len(open_source(f"{path}:split=test")) == 5
    image = source[3].image
    assert image.shape == (32, 32) and np.array_equal(image[2:-2, 2:-2], arrays["x_train"][3])
    assert image.sum() == arrays["x_train"][3].sum(dtype=int) and source[3].label == 3
    batch = Batches(source, size=32, batch=4, prompts="label", drop=0, channels=1).at(0)
    assert batch.image.shape == (4, 1, 32, 32) and batch.prompts == [i % 10 for i in batch.index.tolist()]
    assert open_source(f"{path}:pad=0")[0].image.shape == (28, 28)


def test_what_is_not_there(mnist, tmp_path):
    path, _ = mnist
    with pytest.raises(Problem, match=r"has class numbers but no captions: use prompts='label'"):
        Batches(path, size=32, batch=4)
    with pytest.raises(Problem, match=r"has no array x_val; its arrays are x_train, x_test, y_train, y_test"):
        open_source(f"{path}:split=val")
    np.savez(tmp_path / "u.npz", x_train=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(Problem, match=r"has no array y_train of class numbers"):
        Batches(str(tmp_path / "u.npz"), size=8, batch=1, prompts="label")


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"x_train": np.zeros((2, 8, 8))}, r"x_train is float64 \(2, 8, 8\); uint8"),
        ({"x_train": np.zeros((2, 8, 8, 5), np.uint8)}, r"uint8 \(2, 8, 8, 5\); uint8"),
        (
            {"x_train": np.zeros((2, 8, 8), np.uint8), "y_train": np.zeros(3, int)},
            r"y_train is int64 \(3,\); one whole number",
        ),
        ({"x_train": np.array([{"a": 1}], dtype=object)}, "not a whole .npz of plain arrays"),  # a pickle
    ],
)
def test_arrays_of_other_kinds(tmp_path, arrays, says):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(Problem, match=says):
        open_source(str(tmp_path / "m.npz"))


def test_cut_off_and_html(mnist, tmp_path):
    whole = Path(mnist[0]).read_bytes()
    for data in (whole[: len(whole) // 2], b"<!DOCTYPE html>", b"", b"\x80\x04\x95."):
        (tmp_path / "b.npz").write_bytes(data)
        with pytest.raises(Problem, match=r"b.npz: not a whole .npz of plain arrays"):
            open_source(str(tmp_path / "b.npz"))


def test_mnist_as_shared(shared):
    source = open_source(str(shared / "data/mnist.npz"))
    assert len(source) == 60_000 and [source[i].label for i in range(5)] == [5, 0, 4, 1, 9]
