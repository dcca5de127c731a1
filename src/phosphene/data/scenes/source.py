"""The source: item i of a split is a function of (seed, split, i) alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image

from phosphene.data.base import Example
from phosphene.data.scenes.draw import COLOURS, GAP, SHAPES, SIZES, Object, Scene, check_side, place, render
from phosphene.data.scenes.words import MOST, RELATIONS, Group, Spec, caption, stands
from phosphene.errors import Problem, unknown

SPLITS = ("train", "test", "unseen")
PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
UNSEEN = [("red", "heart"), ("orange", "square"), ("green", "triangle"), ("blue", "ring"), ("purple", "circle")]
SEEN = [pair for pair in PAIRS if pair not in UNSEEN]
MIXES = {  # how many objects of each kind make a scene of n
    1: [(1,)],
    2: [(1, 1), (1, 1), (1, 1), (2,)],
    3: [(3,), (1, 2), (2, 1), (1, 1, 1)],
    4: [(4,), (1, 3), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)],
}
SIZED = 2 / 3  # of the captions name the sizes


class Scenes:
    """Drawn scenes. `size` is 32 or 64 pixels a side, `n` how many there are, `objects` the least and most in one.

    "train" and "test" hold only seen (colour, shape) pairs, and no scene is in both; in "unseen" every scene has an
    unseen pair. Fewer objects are likelier, as 1/number. The scene does not depend on `size` or `n`.
    Example: image (PIL, RGB), 3 captions in English and 3 in Chinese, meta with the scene (`objects`), its `spec`
    and `split`. Raises Problem for an unknown split, a size that is not drawn, objects outside 1 … 4.
    """

    def __init__(
        self, size: int = 32, n: int = 100_000, split: str = "train", objects: tuple[int, int] = (1, 4), seed: int = 0
    ):
        check_side(size)
        if split not in SPLITS:
            raise unknown("split of scenes", split, SPLITS)
        if len(objects) != 2 or not 1 <= objects[0] <= objects[1] <= MOST:
            raise Problem(
                f"scenes: objects={objects!r}; the least and most objects of a scene, such as 1-{MOST}, would be right"
            )
        if n < 1:
            raise Problem(f"scenes: n={n} leaves no scene; 1 or more would be right")
        self.size_, self.n, self.split, self.objects, self.seed = size, n, split, tuple(objects), seed
        self.name = f"scenes:size={size},split={split},objects={objects[0]}-{objects[1]},seed={seed}"

    @property
    def tells(self) -> dict[str, Callable[[Example], Any]]:
        """What else a scene is told by, beside captions: boxes, a map (told.py)."""
        from phosphene.data.scenes import told

        return {"layout": told.layout, "map": told.label_map}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.n:
            raise IndexError(i)
        rng = random.Random(f"scenes/{self.seed}/{self.split}/{i}")
        spec, scene = self._drawn(rng)
        says = [spec if rng.random() < SIZED else spec.without_sizes() for _ in range(6)]
        captions = tuple(caption(s, "en" if k < 3 else "zh", rng) for k, s in enumerate(says))
        meta = {"objects": scene, "spec": spec, "split": self.split}
        return Example(Image.fromarray(render(scene, self.size_)), captions, meta=meta)

    def _drawn(self, rng: random.Random) -> tuple[Spec, Scene]:
        while True:
            spec, scene = draw_scene(rng, self.objects, unseen=self.split == "unseen")
            if self.split == "unseen" or is_test(scene) == (self.split == "test"):
                return spec, scene

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of every picture."""
        return self.size_, self.size_


def is_test(scene: Scene) -> bool:
    """Whether a scene, its objects in any order, belongs to "test": one in eight does, by its hash."""
    objects = sorted((o.shape, o.colour, o.size, o.x, o.y) for o in scene)
    return hashlib.blake2b(repr(objects).encode(), digest_size=1).digest()[0] % 8 == 0


def draw_scene(rng: random.Random, objects: tuple[int, int] = (1, MOST), unseen: bool = False) -> tuple[Spec, Scene]:
    """A random scene and all that is true of it (sizes, and a relation if there are two groups)."""
    numbers = range(objects[0], objects[1] + 1)
    count = rng.choices(numbers, [1 / k for k in numbers])[0]
    return scene_of_mix(rng, MIXES[count][int(rng.random() * len(MIXES[count]))], unseen)


def scene_of_mix(rng: random.Random, mix: tuple[int, ...], unseen: bool = False) -> tuple[Spec, Scene]:
    """A random scene of groups of so many objects; with an unseen pair in it, or with none."""
    pairs = rng.sample(SEEN, len(mix))
    if unseen:
        pairs[int(rng.random() * len(mix))] = UNSEEN[int(rng.random() * len(UNSEEN))]
    names = list(SIZES)
    while True:  # until they fit: crowded scenes end up with smaller objects
        sizes = [names[int(rng.random() * len(names))] for _ in mix]
        centres = place([s for s, n in zip(sizes, mix, strict=True) for _ in range(n)], rng)
        if centres:
            break
    groups = tuple(Group(n, *pair, size) for n, pair, size in zip(mix, pairs, sizes, strict=True))
    kinds = [g for g in groups for _ in range(g.count)]
    scene = tuple(Object(g.shape, g.colour, str(g.size), x, y) for g, (x, y) in zip(kinds, centres, strict=True))
    return _related(Spec(groups), scene, rng), scene


def _related(spec: Spec, scene: Scene, rng: random.Random) -> Spec:
    """The spec with one of the relations that hold clearly: the boxes of the two groups do not overlap on that axis."""
    if len(spec.groups) != 2:
        return spec
    first, second = spec.groups
    apart = (SIZES[str(first.size)] + SIZES[str(second.size)]) / 2 + GAP
    a, b = list(scene[: first.count]), list(scene[first.count :])
    clear = [r for r in RELATIONS if stands(r, a, b, apart)]
    return replace(spec, relation=clear[int(rng.random() * len(clear))]) if clear else spec
