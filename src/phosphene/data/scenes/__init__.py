"""`scenes`: an unlimited set of drawn pictures with captions, and an exact judge of pictures that claim to show one.

One to four coloured shapes of three sizes stand apart on white; captions say them in English and Chinese. Five of the
48 (colour, shape) pairs never occur in training: the split "unseen" holds only scenes with one of them. `parse` reads a
scene back from a picture, `matches` says whether a picture shows what a prompt says. Read draw, words, source, parse,
judge, in this order.
"""

from phosphene.data.scenes.draw import COLOURS, SHAPES, SIZES, Object, Scene, render
from phosphene.data.scenes.judge import (
    KINDS,
    Score,
    Verdict,
    accepted,
    chance,
    evaluate_prompts,
    matches,
    score,
    wilson,
)
from phosphene.data.scenes.parse import Reading, parse
from phosphene.data.scenes.source import SEEN, UNSEEN, Scenes
from phosphene.data.scenes.words import RELATIONS, Group, Spec, caption, read, spec_of

__all__ = [
    "COLOURS",
    "KINDS",
    "RELATIONS",
    "SEEN",
    "SHAPES",
    "SIZES",
    "UNSEEN",
    "Group",
    "Object",
    "Reading",
    "Scene",
    "Scenes",
    "Score",
    "Spec",
    "Verdict",
    "accepted",
    "caption",
    "chance",
    "evaluate_prompts",
    "matches",
    "parse",
    "read",
    "render",
    "score",
    "spec_of",
    "wilson",
]
