"""Words and pixels: what of the picture looked at which word while it was made (as in Hertz et al. 2023, figure 4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.sheet import CJK, to_image
from ..errors import Problem
from ..systems.base import Prompt
from .model import Model, opened, run, settings
from .page import Grid, View
from .recorder import recording

HEAT = ("#0b1026", "#3b1a6e", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")  # from nothing to the most
READING = (
    "Under each word: the share of all attention that it got. Its map is bright where pixels looked at it more than "
    "elsewhere, from its least (dark) to its most (light); the numbers say how much these are, so a word whose numbers "
    "are close was looked at alike everywhere. The mean of heads, layers and steps."
)


class Word(NamedTuple):
    """A word of the prompt, and the places of its tokens among all that the network attends to."""

    text: str
    tokens: tuple[int, ...]


class Maps(NamedTuple):
    """What `attended` found.

    words    those of the prompt
    maps     (words, h, w): the weights on each word's tokens, at the size of the finest layer
    by_size  the same by the size of the layers, {(h, w): (words, h, w)}
    other    the share of tokens that are no word: start, end, padding
    beside   the share of what is no token: of the picture itself, in joint attention
    picture  (1, 3, H, W) in [−1, 1]
    """

    words: list[Word]
    maps: Tensor
    by_size: dict[tuple[int, int], Tensor]
    other: float
    beside: float
    picture: Tensor


def words(
    prompt: str,
    *,
    model: Model = None,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    **using: Any,
) -> View:
    """One heat map a word, laid over the picture; by the size of the layers, where they have several.

    The prompt is read as it is, without the web UI's grammar. using: as Studio takes it.
    Raises Problem for a model that does not attend to words, and for what cannot be.
    """
    system, _, origin = opened(model, **using)
    how = {"steps": steps, "sampler": sampler, "guidance": guidance}
    found = attended(system, prompt, seed, **how)
    kinds = {"all layers": found.maps}
    kinds |= {f"layers of {h}x{w}": maps for (h, w), maps in found.by_size.items()}
    kinds = kinds if len(found.by_size) > 1 else {"": found.maps}
    made = to_image(found.picture[0])
    rows = [[made if k == 0 else None, *(overlaid(made, m) for m in maps)] for k, maps in enumerate(kinds.values())]
    under = [["", *(ends(m) for m in maps)] for maps in kinds.values()]
    shares = [float(m.mean()) for m in found.maps]
    heads = ["the picture", *(f"{word.text}\n{share:.0%}" for word, share in zip(found.words, shares))]
    grid = Grid(rows, list(kinds), heads, under)
    told = {"prompt": prompt, "seed": seed, **settings(system, **how), **origin}
    numbers = {"words": [w.text for w in found.words], "shares": shares, "other": found.other, "beside": found.beside}
    rest = f"Tokens that are no words (start, end, padding) got {found.other:.0%}"
    rest += f", the picture itself {found.beside:.0%}." if found.beside > 0.005 else "."
    return View(f'Where "{prompt}" is looked at', [grid], f"{READING} {rest}", told, numbers)


def attended(system: Any, prompt: str, seed: int, **how: Any) -> Maps:
    """Makes the picture, and records meanwhile which words its pixels attend to. how: as `generate` takes it.

    Raises Problem where the prompt is no words, where guidance 0 leaves them out, or where the network has no
    attention to them.
    """
    listed = words_of(system.encoder, prompt)
    if how.get("guidance") == 0:
        raise Problem("guidance=0: the prompt is left out, so nothing looks at its words")
    with recording(system.denoiser.net) as seen:
        picture = run(system, prompt, seed, grammar="plain", **how).picture
    if not seen.sums:
        raise Problem(
            f"{type(system.denoiser.net).__name__} of this model does not attend to words: what is said reaches it as "
            f"a vector alone"
        )
    by_size = {size: by_word(seen.at(size), listed) for size in seen.sizes}
    every = seen.mean(seen.sizes[0])
    maps, all_of_it = by_word(every, listed), float(every.sum(0).mean())
    other = max(0.0, all_of_it - float(maps.sum(0).mean()))
    return Maps(listed, maps, by_size, other, max(0.0, 1 - all_of_it), picture)


def words_of(encoder: nn.Module, prompt: Prompt) -> list[Word]:
    """The words of a prompt and their tokens, by what the encoder says of its tokens' characters.

    A word is what stands between blanks and marks. Chinese has none: there it is what one token, or several of one
    character, stand for. Raises Problem for what is no words, and an encoder that does not say where its tokens stand.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise Problem(f"prompt {prompt!r}: words are wanted, to see where they are looked at")
    if not hasattr(encoder, "spelled"):
        raise Problem(f"{type(encoder).__name__} does not say which token stands for which word")
    text, spans = encoder.spelled(prompt)
    found = []
    for a, b in _pieces(text, spans):
        tokens = tuple(i for i, (start, end) in enumerate(spans) if start < b and end > a and text[start:end].strip())
        if tokens:
            found.append(Word(text[a:b], tokens))
    if not found:
        raise Problem(f"prompt {prompt!r}: no word in it, or none that the model's tokenizer reads")
    return found


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: Latin ones by their letters, Chinese ones by the tokens."""
    cuts = {end for a, b in spans if b > a for end in (a, b)}
    cuts -= {i for a, b in spans for i in range(a + 1, b)}  # a token of bytes may hold the end of one and the next
    pieces = []
    for match in re.finditer(r"\w+(?:['’]\w+)*", text):
        start = match.start()
        for i in range(match.start() + 1, match.end() + 1):
            chinese = CJK.match(text[i - 1]) or (i < match.end() and CJK.match(text[i]))
            if i == match.end() or (chinese and i in cuts):
                pieces.append((start, i))
                start = i
    return pieces


def by_word(maps: Tensor, words: Sequence[Word]) -> Tensor:
    """(tokens, h, w) → (words, h, w): the weights of a word's tokens, added up."""
    return torch.stack([maps[list(word.tokens)].sum(0) for word in words])


def overlaid(picture: Image.Image, weights: Tensor) -> Image.Image:
    """A map (h, w) as heat over the picture, from its least to its most; a map that is even is all dark."""
    height, width = picture.height, picture.width
    spread = float(weights.max() - weights.min())
    share = (weights - weights.min()) / spread if spread > 1e-3 * float(weights.max()) else torch.zeros_like(weights)
    share = F.interpolate(share[None, None], size=(height, width), mode="bicubic")[0, 0].clamp(0, 1).numpy()
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in HEAT], dtype=np.float64)
    at = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(share, at, anchors[:, k]) for k in range(3)], axis=-1)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    return Image.fromarray((0.68 * heat + 0.32 * grey).round().astype(np.uint8))


def ends(weights: Tensor) -> str:
    """The least and the most of a map."""
    return f"{float(weights.min()):.1%} to {float(weights.max()):.1%}"
