"""A whole measurement: what is kept of it, and that copies of training pictures are found and shown."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from phosphene.data.scenes import Scenes
from phosphene.metrics.evaluation import SHOWN, is_exact, measure, prompts_of, words_of
from phosphene.metrics.features import extractor
from phosphene.metrics.statistics import collect, pictures
from phosphene.metrics.words import r_precision

THUMBNAILS = extractor("thumbnails")


def statistics_of(source, rows, eyes=THUMBNAILS, size=(32, 32)):
    it = collect(map(eyes, pictures(source, rows, size)), eyes.dim, {**eyes.about, "picture_size": "32x32"})
    it.rows = torch.tensor(rows)[it.rows]
    return it


def test_a_copy_is_found_and_named_by_its_row():
    """Three pictures of the training set among others, one a grey level off: they are the nearest, and counted."""
    source = Scenes(n=80)
    real = statistics_of(source, list(range(40, 80)))
    made = [Scenes(n=20, split="test")[i].image for i in range(20)]
    for place, row in ((3, 47), (9, 71), (15, 44)):
        made[place] = Image.fromarray(np.asarray(source[row].image) // 2 * 2)
    found = measure(iter(made), [None] * 20, THUMBNAILS, real)
    assert {(i, row) for i, row, _ in found.nearest[:3]} == {(3, 47), (9, 71), (15, 44)}
    assert found.copies[1] == 20 and 3 <= found.copies[0] < 10 and found.nearest[0][2] < 0.1
    assert found.plain()["copies"] == {"found": found.copies[0], "of": 20}


def test_pictures_are_not_held():
    """However many are measured, those of the page and two batches are alive, also where the parser reads each."""
    source, alive, most = Scenes(n=300, size=32), [], 0
    prompts = prompts_of(source, range(300), "caption")
    real = statistics_of(source, list(range(20)))

    def images():
        nonlocal most
        for i in range(300):
            image = source[i].image
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            yield image

    assert is_exact(source, prompts, (32, 32))
    found = measure(images(), prompts, THUMBNAILS, real, exact=True)
    assert most <= SHOWN + 64 and len(found.shown) == SHOWN
    assert found.accuracy["all"] == ((1, pytest.approx(0.987, abs=0.01), 1), 300)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_cosines_of_all_pairs_are_not_held():
    """R-precision of 2,000 pictures: no single result comes near their four million cosines with each other."""
    features = torch.nn.functional.one_hot(torch.arange(2000) % 50, 50).float()
    with Largest() as largest:
        found = r_precision(features, features, [str(i % 50) for i in range(2000)], others=9)
    assert found.value == 1 and 2000 * 50 <= largest.numbers < 1e6


def test_the_judge_is_judged_by_real_pictures():
    """Words of the real pictures themselves: nearly all for one who knows, chance for one who does not."""

    class Judge:
        """Sees the mean colour, and reads it in words that begin with its number."""

        dim = 3

        def __init__(self, knows):
            self.knows, self.clip = knows, self

        def __call__(self, shown):
            return shown.float().mean((1, 2))

        def embed_text(self, prompts):
            rows = torch.tensor([int(p.split()[0]) for p in prompts])
            return colours[rows if self.knows else (rows * 7 + 3) % len(colours)]

    colours = torch.nn.functional.normalize(torch.rand(60, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    shown = [(240 * colours[i : i + 20, None, None]).expand(-1, 8, 8, -1).to(torch.uint8) for i in (0, 20, 40)]
    prompts = [f"{i} colour" for i in range(60)]
    assert words_of(Judge(True), shown, prompts, 0)["r_precision"].value > 0.8
    assert words_of(Judge(False), shown, prompts, 0)["r_precision"].value < 0.2
    assert words_of(Judge(True), shown, [None] * 60, 0) == {}
