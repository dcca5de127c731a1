"""What a bundle has to be where a recipe needs another one's. What does not fit is refused, by name, before its use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from phosphene.errors import Problem
from phosphene.recipes.cascade import stages_of
from phosphene.systems.autoencoder import AutoencoderSystem
from phosphene.systems.base import System
from phosphene.systems.cascade import Cascade
from phosphene.systems.clip import ClipSystem
from phosphene.systems.prior import ClipPrior
from phosphene.systems.unclip import Unclip
from phosphene.text.deepfloyd import IfEncoder
from phosphene.text.glide import GlideEncoder


def _told_by(kind: type) -> Callable[[System], bool]:
    return lambda system: isinstance(getattr(stages_of(system)[0], "encoder", None), kind)


# knob, or the recipe that it needs where that says more -> (what it is, whether a system is that)
FITS: dict[str, tuple[str, Callable[[System], bool]]] = {
    "autoencoder": ("an autoencoder", lambda it: isinstance(it, AutoencoderSystem)),
    "clip": ("a CLIP", lambda it: isinstance(it, ClipSystem)),
    "glide": ("GLIDE's base, or a cascade on it", _told_by(GlideEncoder)),
    "scenes.glide_upscale": ("GLIDE's cascade", lambda it: isinstance(it, Cascade) and _told_by(GlideEncoder)(it)),
    "imagen": ("Imagen's base, or a cascade on it", _told_by(IfEncoder)),
    "unclip": ("unCLIP's decoder, with what enlarges its pictures", lambda it: isinstance(it, Unclip)),
    "prior": ("one of unCLIP's priors", lambda it: isinstance(it, ClipPrior)),
}


def fitting(system: System, knob: str, recipe: str, path: Path) -> System:
    """The system, where it can be what the knob stands for. Raises Problem: names the file, its kind and the recipe.

    Of a knob that is not in FITS, as a recipe of one's own may have, nothing is known, and everything is taken.
    """
    what, fits = FITS.get(recipe) or FITS.get(knob, ("", lambda it: True))
    if not fits(system):
        raise Problem(f"{knob}={path} is a {type(system).__name__}, not {what}: a bundle of {recipe} was expected")
    return system
