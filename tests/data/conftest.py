"""Small pictures to write to disk, and a source in memory."""

import io

import numpy as np
import pytest
from PIL import Image

from phosphene.data.base import Example
from phosphene.errors import Problem


@pytest.fixture
def encoded():
    """encoded(colour, size=(w, h), format="PNG") -> the bytes of a picture of one colour."""

    def make(colour=(200, 30, 30), size=(8, 8), format="PNG", mode="RGB") -> bytes:
        out = io.BytesIO()
        Image.new(mode, size, colour).save(out, format)
        return out.getvalue()

    return make


class Rows:
    """n rows in memory; row i is a picture of the level i, and the rows in `bad` are broken."""

    name = "rows"

    def __init__(self, n, captions=3, bad=(), sizes=((8, 8),), shards=None):
        self.n, self.captions, self.bad, self.sizes = n, captions, set(bad), sizes
        if shards is not None:
            self.shards = shards

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.bad:
            raise Problem(f"rows, row {i}: broken picture")
        width, height = self.sizes[i % len(self.sizes)]
        image = np.full((height, width, 3), i % 256, np.uint8)
        image[:, 0] = 255  # so that a mirror image is another one
        return Example(image, tuple(f"{i}/{k}" for k in range(self.captions)), i % 10, {"file": f"row {i}"})


@pytest.fixture
def rows():
    return Rows
