"""What else a scene can be told by: a layout, its objects' boxes; a map, the colour of every pixel."""

from __future__ import annotations

import numpy as np

from phosphene.data.base import Example
from phosphene.data.scenes.draw import COLOURS, SHAPES, SIZES, UNITS, Object, Scene, stamp
from phosphene.text.layout import Box, Layout
from phosphene.text.maps import LabelMap

WORDS = [*COLOURS, *SHAPES]  # that labels of boxes are made of
LABELS = ["white", *COLOURS]  # of maps


def box_of(it: Object) -> Box:
    """An object's label and the square of its diameter."""
    half = SIZES[it.size] / 2
    edges = [(edge + way * half) / UNITS for way in (-1, 1) for edge in (it.x, it.y)]
    return Box(f"{it.colour} {it.shape}", *(min(max(edge, 0.0), 1.0) for edge in edges))


def layout_of(scene: Scene) -> Layout:
    """The boxes of a scene's objects."""
    return Layout(tuple(map(box_of, scene)))


def map_of(scene: Scene, side: int) -> LabelMap:
    """Each pixel's number in LABELS: an object's colour where the object covers more than half of it."""
    labels = np.zeros((side, side), np.uint8)
    for it in scene:
        cover, top, left = stamp(it.shape, SIZES[it.size], it.x, it.y, side)
        rows, columns = ((cover > 0.5).nonzero()[axis] + edge for axis, edge in ((0, top), (1, left)))
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        labels[rows[inside], columns[inside]] = LABELS.index(it.colour)
    return LabelMap.of(labels)


def layout(example: Example) -> Layout:
    return layout_of(example.meta["objects"])


def label_map(example: Example) -> LabelMap:
    return map_of(example.meta["objects"], example.image.size[0])
