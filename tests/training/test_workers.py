"""Any number of processes that load pictures gives the same run, also where some pictures are broken."""

from itertools import pairwise

import pytest
from toys import Toy, run, weights

from phosphene.data.batches import Batches
from phosphene.data.scenes import Scenes
from phosphene.errors import Problem


class Holed:
    """Every seventh picture is broken."""

    name = "holed"

    def __init__(self) -> None:
        self.scenes = Scenes(n=50)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int):
        if i % 7 == 3:
            raise Problem(f"{i}.png: broken picture")
        return self.scenes[i]


@pytest.fixture(scope="module")
def trained():
    def train(workers: int):
        system = Toy()
        data = Batches(Holed(), size=8, batch=4, slots=2, flip=True, crop="random")
        shown = run(system, data, steps=20, workers=workers)
        return weights(system), [p.loss for p in shown], sorted(data.broken), [n for p in shown for n in p.notes]

    return train, train(0)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(trained, workers):
    train, alone = trained
    there = train(workers)
    assert there[0] == alone[0] and there[1] == alone[1]
    assert set(alone[2]) <= set(there[2])  # they read ahead


def test_broken_rows_are_told(trained):
    """The first, and then whenever there are twice as many."""
    _, (_, _, broken, notes) = trained
    assert broken == [3, 10, 17, 24, 31, 38, 45]
    parts = [note.split("; others take their places. The latest: ") for note in notes]
    assert all(latest.endswith(".png: broken picture") for _, latest in parts)
    counts = [int(count.removeprefix("Broken rows met so far: ")) for count, _ in parts]
    assert counts[0] >= 1 and 4 <= counts[-1] <= 7 and all(b >= 2 * a for a, b in pairwise(counts))
