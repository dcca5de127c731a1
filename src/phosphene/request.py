"""From prompts to pictures: what the command line, `phosphene.generate` and `phosphene.edit` do.

The loop is `System.generate`; here stand what goes around it: which seed goes with which prompt, the default model,
batches, pictures out of tensors, and what is written into each of them.
"""

from __future__ import annotations

import inspect
import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from phosphene import receipt
from phosphene.adapt import dress, wearing, worn
from phosphene.canvas import LARGEST, Canvas, Picture, prepare
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.runtime import PRECISIONS, circumstances, prepare_for_sampling
from phosphene.systems.base import Preview, Prompt
from phosphene.text.prompt import bare, loras
from phosphene.weights import bundle
from phosphene.weights.load import load, look, words_told

BATCH, PIXELS = 16, 2**20  # at once, pictures and their pixels; a picture does not depend on it
HIGHEST_SEED = 2**63 - 1
LONGEST = 20_000  # characters of a prompt, as many as a receipt may say


@dataclass(frozen=True)
class Made:
    """A picture and how it was made."""

    image: Image.Image
    receipt: dict[str, Any]


def generate(
    prompts: Prompt | Sequence[Prompt] = None,
    *,
    seed: int | Sequence[int] | None = None,
    n: int = 1,
    variation_seed: int | None = None,
    variation_strength: float = 0.0,
    between: int = 0,
    **options: Any,
) -> Image.Image | list[Image.Image]:
    """Pictures of the prompts: one picture as itself, several as a list.

    prompts  one or several; None where the model takes none
    seed     one or several: prompts and seeds pair up, or one of them goes with all of the others. None: drawn
    n        pictures of each pair, with seeds seed, seed + 1, …
    variation_strength   how far, from 0 to 1, to go from each seed towards variation_seed (None: drawn); the n pictures
             of a pair then share its seed and go towards variation_seed, variation_seed + 1, …, as the web UI's do
    between  so many pictures on the way from each pair to the next, both ends among them
    options  model=, device=, precision=: what `Studio` knows. And steps=, guidance=, sampler=, negative=, hires=,
             size=(height, width) and whatever else the model's system knows
    Raises Problem for what cannot be: no steps, seeds that do not fit, an unknown sampler, a size that does not divide.
    """
    listed = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    pairs = rows(listed, _listed(seed), n, variation_seed, variation_strength, between)
    studio, options = _studio(options)
    return _pictures(studio.make(pairs, options))


def edit(
    picture: Picture,
    prompts: Prompt | Sequence[Prompt] = None,
    *,
    mask: Picture | None = None,
    expand: int | str | Mapping[str, int] | None = None,
    feather: int | None = None,
    size: tuple[int, int] | None = None,
    strength: float | None = None,
    invert: bool | str = False,
    other: Picture | None = None,
    seed: int | Sequence[int] | None = None,
    n: int = 1,
    **options: Any,
) -> Image.Image | list[Image.Image]:
    """Pictures made of a picture: one as itself, several as a list.

    picture  a file or a PIL picture
    mask, expand, feather, size   what is redrawn, and at which size: see `canvas.prepare`
    strength from 0 (untouched) to 1 (redrawn from noise); None is 0.6, and 1 with a mask
    invert   start from the noise that makes the picture (DDIM inversion), found under a prompt that describes it;
             True: under the one in its own receipt, else under none
    other    a picture on the way to which, `strength` of it, the pictures lie: of unCLIP alone
    prompts, seed, n, options   of `generate`; unCLIP knows eta and components too (systems/unclip.py)
    Raises Problem for what cannot be.
    """
    listed = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    pairs = paired(listed, _listed(seed), n)
    studio, options = _studio(options)
    canvas = studio.canvas(picture, mask, other, expand=expand, feather=feather, size=size)
    return _pictures(studio.make(pairs, {**options, **started(picture, strength, invert)}, canvas=canvas))


def started(picture: Picture, strength: float | None, invert: bool | str) -> dict[str, Any]:
    """The options that say where an edit starts. `invert` True is what the picture's own receipt says it shows."""
    described = _described(picture) if invert is True else invert
    return {"strength": strength, "invert": None if invert is False else described}


def _described(picture: Picture) -> str:
    """The prompt that the picture was made of, as its own receipt says; "" where it has none."""
    try:
        told = receipt.read(picture) if isinstance(picture, (str, Path)) else {}
    except Problem:
        return ""
    prompt = told.get("prompt") if isinstance(told, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _listed(seed: int | Sequence[int] | None) -> list[int]:
    return [] if seed is None else list(seed) if isinstance(seed, (list, tuple)) else [seed]


def _studio(options: dict[str, Any]) -> tuple[Studio, dict[str, Any]]:
    """The studio that the options name, and the rest of them."""
    its = [name for name in inspect.signature(Studio).parameters if name in options]
    rest = {name: value for name, value in options.items() if name not in its}
    return Studio(**{name: options[name] for name in its}), rest


def _pictures(made: Iterator[Made]) -> Image.Image | list[Image.Image]:
    images = [m.image for m in made]
    return images[0] if len(images) == 1 else images


def paired(prompts: Sequence[Prompt], seeds: Sequence[int], n: int = 1) -> list[tuple[Prompt, int]]:
    """(prompt, seed), one a picture. Raises Problem where the numbers of prompts and seeds do not fit."""
    prompts = list(prompts) or [None]
    if n < 1:
        raise Problem(f"n={n}: at least 1 picture is wanted")
    for seed in seeds:
        if not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED - n:
            raise Problem(f"seed {seed!r}: a whole number from 0 to {HIGHEST_SEED - n} was expected")
    seeds = list(seeds) or [secrets.randbelow(2**32) for _ in prompts]
    if len(prompts) != len(seeds) and 1 not in (len(prompts), len(seeds)):
        raise Problem(f"{len(prompts)} prompts and {len(seeds)} seeds do not pair up: give as many, or one of either")
    rows = max(len(prompts), len(seeds))
    prompts = prompts * rows if len(prompts) == 1 else prompts
    seeds = seeds * rows if len(seeds) == 1 else seeds
    return [(prompt, seed + i) for prompt, seed in zip(prompts, seeds, strict=True) for i in range(n)]


def rows(
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    n: int = 1,
    variation_seed: int | None = None,
    variation_strength: float = 0.0,
    between: int = 0,
) -> list[tuple[Prompt | Between, int | Between]]:
    """`paired`; or variations: each pair's n pictures go from its one seed towards variation_seed, + 1, …

    variation_strength   how far, from 0, which is no variation, to 1; variation_seed None: drawn
    between              so many pictures on the way from each pair to the next; 0: the pairs themselves
    Raises Problem for a share outside of [0, 1], and for a way of one pair or of one picture.
    """
    if not 0 <= variation_strength <= 1:
        raise Problem(f"variation_strength={variation_strength}: from 0, the seed's picture, to 1, the other seed's")
    if between and variation_strength:
        raise Problem("variation_strength and between are two ways to walk between seeds: give one of them")
    pairs = paired(prompts, seeds, 1 if variation_strength and n > 0 else n)
    if variation_strength:
        first = secrets.randbelow(2**32) if variation_seed is None else paired([None], [variation_seed], n)[0][1]
        return [(p, Between(seed, first + i, variation_strength)) for p, seed in pairs for i in range(n)]
    if not between:
        return list(pairs)
    if between < 2 or len(pairs) < 2:
        given = f"{len(pairs)} {'is' if len(pairs) == 1 else 'are'} given"
        raise Problem(f"between={between}: at least 2 pictures, from one prompt or seed to another, and {given}")
    shares = [i / (between - 1) for i in range(between)]
    ways = [[(_on(p, q, u), _on(a, b, u)) for u in shares] for (p, a), (q, b) in itertools.pairwise(pairs)]
    return ways[0] + [row for way in ways[1:] for row in way[1:]]


def _on(a: Any, b: Any, share: float) -> Any:
    return a if a == b or share == 0 else b if share == 1 else Between(a, b, share)


class Studio:
    """A loaded model, ready to make pictures."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        vae: str | Path | None = None,
        lora: str | Path | Sequence[str | Path] = (),
        embedding: str | Path | Sequence[str | Path] = (),
        guide: str | Path | Sequence[str | Path] = (),
        tell: Mapping[str, Any] | Sequence[str] = (),
        device: str = "auto",
        precision: str = "auto",
        offload: bool = False,
        tile: int | None = None,
        seamless: bool = False,
        strict: bool = False,
    ):
        """Loads the model onto the device. Raises Problem where there is none, or where it makes no pictures.

        model      a shipped model's name, a bundle, a run's folder or a checkpoint; None: the shipped one
        vae        a file or folder whose autoencoder takes the place of the model's
        lora       FILE or FILE:strength, one or several; of a folder, those that prompts name, <lora:name:weight>
        embedding  files of words by textual inversion, one or several
        guide      FILE or FILE:scale, one or several: classifiers or CLIPs of noisy pictures (docs/guidance.md)
        tell       what a checkpoint does not say, {"predicts": "v"} or ["predicts=v"] (docs/checkpoints.md)
        device, precision, offload, tile, seamless   see `runtime.prepare_for_sampling`
        strict     one picture at a time, so that none depends on the others of a request in any bit (docs/trust.md)
        """
        self.path, weights = _found(default_model() if model is None else model)
        told = dict(tell) if isinstance(tell, Mapping) else words_told(tell)
        changes = {name: value for name, value in (("tile", tile), ("seamless", seamless)) if value}
        self.strict = strict
        self.loras = _several(lora)
        system = load(self.path, PRECISIONS.get(precision), **told, **({} if vae is None else {"vae": vae}))
        if not hasattr(system, "generate"):
            raise Problem(f"{self.path} is a part, {type(system).__name__}, which makes no pictures by itself")
        self.system = prepare_for_sampling(system, device, precision, offload=offload, **changes)
        dress(self.system, self.loras, _several(embedding), guides=_several(guide))
        self.origin = {
            "model": self.path.stem,
            "weights": weights,
            **({} if vae is None else {"vae": Path(vae).name, "vae_weights": _found(vae)[1]}),
            **({"told": told} if told else {}),
            **changes,
            **({"strict": True} if strict else {}),
            **circumstances(self.system),
        }

    def canvas(self, picture: Picture, mask: Picture | None = None, other: Picture | None = None, **how: Any) -> Canvas:
        """The picture as this model wants it, and the other one as large. Raises Problem where it is none, or where
        there is another one and the model knows of no way between pictures (canvas.prepare)."""
        small, size, multiple = (getattr(self.system, name, None) for name in ("small", "size", "multiple"))
        made = prepare(picture, mask, trained=small or size, multiple=1 if small else multiple or 1, **how)
        if other is None:
            return made
        if not hasattr(self.system, "latent"):
            raise Problem(f"{self.path.stem} knows of no way between two pictures: that takes a model of unCLIP's kind")
        height, width = made.image.shape[2:]
        beside = prepare(other, size=(height, width))
        return replace(made, other=beside.image, receipt={**made.receipt, "other": beside.receipt["source"]})

    def make(
        self,
        pairs: Sequence[tuple[Prompt | Between, int | Between]],
        options: dict[str, Any],
        watch: Callable[[int, Preview], None] = lambda first, preview: None,
        canvas: Canvas | None = None,
    ) -> Iterator[Made]:
        """A picture for each (prompt, seed), with a canvas made of its picture.

        `watch(first picture of the batch, preview)` sees every step.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for prompt in (*(each for each, _ in pairs), options.get("negative"), options.get("invert")):
            _not_too_long(prompt)
        source = {} if canvas is None else self._source(canvas, options)
        check(options)
        said = {**options, **({} if canvas is None else canvas.receipt)}
        size = options.get("size") or (canvas.image.shape[2:] if canvas else [getattr(self.system, "size", 64)] * 2)
        if options.get("hires", 1) != 1:
            said["drawn"] = {"width": size[1], "height": size[0]}  # first; what is made is larger
        most, first = 1 if self.strict else max(1, min(BATCH, PIXELS // (size[0] * size[1]))), 0
        for batch, tags in _batches(pairs, most, options.get("grammar") != "plain"):
            prompts, seeds = zip(*batch, strict=True)
            told, preview = {**_each(options, len(seeds)), **source}, None
            with wearing(self.system, tags, self.loras):
                settings = self._settings(said)
                for preview in self.system.generate(list(prompts), seeds=list(seeds), **told):
                    watch(first, preview)
                if preview is None:
                    raise Problem(f"{self.path.name}: {type(self.system).__name__} made no picture")
                images = to_images(preview.picture())
            for image, (prompt, seed) in zip(images, pairs[first : first + len(batch)], strict=True):
                image = image if canvas is None else canvas.back(image)
                yield Made(image, _record(prompt, seed, image, settings))
            first += len(batch)

    def _source(self, canvas: Canvas, options: dict[str, Any]) -> dict[str, Any]:
        """The canvas as arguments of `generate`. How strongly it is edited joins the options, where none was said."""
        if small := getattr(self.system, "small", None):  # it enlarges: the picture is told, and nothing of it noised
            large = [side * self.system.size // small for side in canvas.image.shape[2:]]
            return {"image": canvas.image, "size": tuple(large)}
        if getattr(self.system, "likens", False):  # it is told the picture, and makes others like it
            between = {} if canvas.other is None else {"towards": canvas.other}
            return {"image": canvas.image, "mask": canvas.inside, "size": tuple(canvas.image.shape[2:]), **between}
        options.setdefault("strength", 0.6 if canvas.inside is None and "invert" not in options else 1.0)
        return {"image": canvas.image, "mask": canvas.inside}

    def outside(self, prompt: Prompt) -> str | None:
        """A line saying that a prompt is outside of what the model knows; None where it is not, or cannot be said."""
        vocabulary = getattr(self.system, "vocabulary", None)
        if vocabulary is None or not isinstance(prompt, str):
            return None
        known, near = vocabulary(bare(prompt))
        if known:
            return None
        hint = f"; nearest to it: {near}" if near else ""
        return f"{prompt!r} is outside the vocabulary of {self.path.stem}, so the picture is a guess{hint}"

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        """Everything that the pictures are a function of: what was said, else what the system chooses by itself."""
        own = {name: getattr(self.system, name, None) for name in ("sampler", "spacing", "steps", "guidance")}
        inverted = "invert" in options or ("source" in options and hasattr(self.system, "latent"))
        own["sampler"] = "ddim" if inverted else own["sampler"]  # as systems/ddpm.py and systems/unclip.py have it
        on = [it.record for it in worn(self.system) if it.strength and it.sha256]  # else they are the model's own
        return {**own, **options, **self.origin, **({"adapters": on} if on else {})}


def _found(model: str | Path) -> tuple[Path, str]:
    """Where a model is, and which weights it has: the first digits of its file's SHA-256, of a folder's files' ones."""
    found = look(model)
    path = bundle.find(model) if found is None else found.path
    return path, bundle.fingerprint(path)


def _not_too_long(prompt: Any) -> None:
    for each in prompt[:2] if isinstance(prompt, Between) else prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(each, str) and len(each) > LONGEST:
            raise Problem(f"a prompt of {len(each):,} characters, {each[:20]!r}…: at most {LONGEST:,} are read")


def _several(files: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [files] if isinstance(files, (str, Path)) else list(files)


def _batches(pairs: Sequence[tuple[Any, Any]], most: int, tagged: bool) -> Iterator[tuple[list[tuple[Any, Any]], Any]]:
    """The pairs in batches of at most `most` that wear the same LoRAs: prompts without the tags, and the tags."""
    rows = [(*_untagged(prompt), seed) if tagged else (prompt, (), seed) for prompt, seed in pairs]
    for tags, same in itertools.groupby(rows, lambda row: row[1]):
        alike = [(prompt, seed) for prompt, _, seed in same]
        for first in range(0, len(alike), most):
            yield alike[first : first + most], tags


def _untagged(prompt: Any) -> tuple[Any, tuple[tuple[str, float], ...]]:
    """A prompt and its LoRAs; between two prompts each one's LoRAs at its own share."""
    if isinstance(prompt, Between):
        (a, ours), (b, theirs), u = _untagged(prompt.a), _untagged(prompt.b), prompt.share
        return Between(a, b, u), (*((n, w * (1 - u)) for n, w in ours), *((n, w * u) for n, w in theirs))
    text, tags = loras(prompt) if isinstance(prompt, str) else (prompt, ())
    return (text.strip() if tags else prompt), tuple(tags)


def _each(options: dict[str, Any], n: int) -> dict[str, Any]:
    """A single negative prompt, and a single description of the source, is that of every picture."""
    each = {name: [value] * n for name in ("negative", "invert") if isinstance(value := options.get(name), (str, int))}
    return {**options, **each}


def _record(prompt: Any, seed: Any, image: Image.Image, settings: dict[str, Any]) -> dict[str, Any]:
    """The receipt; a place on the way between two prompts or two seeds is told as the first, the second, the share."""
    ways: dict[str, Any] = {}
    if isinstance(seed, Between):
        seed, ways["variation_seed"], ways["variation_strength"] = seed
    if isinstance(prompt, Between):
        prompt, ways["towards"], ways["towards_share"] = prompt
    return receipt.record(prompt, seed, image, {**ways, **settings})


def default_model() -> str:
    """The name of the shipped model that is used where none is named. Raises Problem where none is shipped."""
    names = list(bundle.shipped())
    if not names:
        raise Problem("no model came with this installation: name one with --model FILE, or train one")
    return "emoji" if "emoji" in names else names[0]


def check(options: dict[str, Any]) -> None:
    """Problem for numbers that no system can take."""
    steps, size = options.get("steps"), options.get("size")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise Problem(f"steps={steps}: a whole number of steps, at least 1, was expected")
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise Problem(f"size={size}: (height, width) in pixels was expected")
    hires, most = options.get("hires", 1.0), 4 * LARGEST
    if not isinstance(hires, (int, float)) or not 1 <= hires <= 8:
        raise Problem(f"hires={hires}: how many times as large, from 1 to 8")
    if size is not None and max(size) * hires > most:
        raise Problem(f"size={size}{f' with hires={hires}' if hires != 1 else ''}: at most {most} pixels a side")
    strength = options.get("strength", 1.0)
    if not isinstance(strength, (int, float)) or not 0 < strength <= 1:
        raise Problem(f"strength={strength}: a share of the steps, above 0 and at most 1, was expected")
    guidance = options.get("guidance")
    if guidance is not None and not abs(guidance) < 1e6:
        raise Problem(f"guidance={guidance}: a number such as 3 was expected; 1 is none")


def to_images(picture: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [−1, 1] → B pictures. Raises Problem where a network broke down into NaN."""
    if not picture.isfinite().all():
        raise Problem("the network returned NaN: try precision fp32, another sampler or less guidance")
    pixels = ((picture.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(p.squeeze(-1).numpy()) for p in pixels.permute(0, 2, 3, 1).cpu()]
