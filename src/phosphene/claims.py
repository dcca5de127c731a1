"""What a receipt may say. It is somebody else's text: here stands, setting by setting, what is believed of it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from phosphene import __version__
from phosphene.canvas import LARGEST
from phosphene.diffusion.samplers import SAMPLERS
from phosphene.errors import Problem
from phosphene.request import HIGHEST_SEED, LONGEST
from phosphene.runtime import PRECISIONS

Receipt = dict[str, Any]
SIDE = 4 * LARGEST  # pixels, at most


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _number(low: float, high: float, *kinds: type) -> Callable[[Any], bool]:
    of = _is(*(kinds or (int, float)))
    return lambda value: of(value) and math.isfinite(value) and low <= value <= high


def _text(longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= longest


def _sides(value: Any) -> bool:
    sides = _number(1, SIDE, int)
    return isinstance(value, dict) and set(value) == {"width", "height"} and all(map(sides, value.values()))


def _file(value: Any) -> bool:
    return isinstance(value, dict) and _text(4096)(value.get("name", "")) and isinstance(value.get("sha256"), str)


def _prompt(value: Any) -> bool:
    return value is None or _text(LONGEST)(value) or _number(0, 10**9, int)(value)


def _plain(value: Any) -> bool:
    """What a sampler, or the reader of a checkpoint, may be told: a number, a word, a list of numbers."""
    number = _number(-1e4, 1e4)
    numbers = isinstance(value, list) and len(value) <= 1000 and all(map(number, value))
    return value is None or isinstance(value, bool) or number(value) or _text(200)(value) or numbers


SEED, SHARE = _number(0, HIGHEST_SEED, int), _number(0, 1)
SETTINGS: dict[str, Callable[[Any], bool]] = {  # what `generate` and `edit` are asked with
    "sampler": lambda value: value in SAMPLERS,
    "spacing": lambda value: value is None or _text(40)(value),
    "steps": _number(1, 10_000, int),
    "guidance": _number(-1e6, 1e6),
    "negative": _prompt,
    "clip_skip": _number(1, 100, int),
    "grammar": _text(40),
    "rescale": SHARE,
    "interval": lambda value: isinstance(value, list) and len(value) == 2 and all(map(SHARE, value)),
    "times": lambda value: isinstance(value, list) and 2 <= len(value) <= 10_001 and all(map(SHARE, value)),
    "hires": _number(1, 8),
    "hires_strength": SHARE,
    "level": SHARE,
    "strength": SHARE,
    "invert": _prompt,
    "draw": _is(bool),
    "components": _number(1, 100_000, int),
}
PLACE: dict[str, Callable[[Any], bool]] = {  # which model, where
    "told": lambda value: isinstance(value, dict) and all(map(_plain, value.values())),
    "vae": _text(4096),
    "vae_weights": _text(64),
    "adapters": lambda value: isinstance(value, list) and len(value) <= 100 and all(map(_adapter, value)),
    "tile": _number(1, SIDE, int),
    "seamless": _is(bool),
    "strict": _is(bool),
    "device": lambda value: isinstance(value, str) and re.fullmatch(r"(cpu|mps|cuda)(:\d{1,3})?", value) is not None,
    "device_kind": _text(400),
    "threads": _number(1, 4096, int),
    "precision": lambda value: value in PRECISIONS or value == "auto",
    "model": _text(4096),
    "weights": _text(64),
    "versions": lambda value: isinstance(value, dict) and all(map(_text(40), value.values())),
}
ROW: dict[str, Callable[[Any], bool]] = {  # what is each picture's own
    "prompt": _prompt,
    "seed": SEED,
    "variation_seed": SEED,
    "variation_strength": SHARE,
    "towards": _prompt,
    "towards_share": SHARE,
}
SIZES: dict[str, Callable[[Any], bool]] = {
    "size": _sides,
    "drawn": _sides,
    "fitted": _sides,
    "source": _file,
    "mask": _file,
    "other": _file,
    "expand": lambda value: isinstance(value, dict) and all(map(_number(0, SIDE, int), value.values())),
    "feather": _number(0, 512, int),
}
KNOWN = {**SETTINGS, **PLACE, **ROW, **SIZES}
NOT_ASKED = {**PLACE, **ROW, **SIZES}
WORDS = ("predicts", "qkv", "act", "schedule", "part")  # told in words; other texts may be paths: the caller's to say


def _adapter(value: Any) -> bool:
    return (
        _file(value)
        and value.get("kind") in ("lora", "embedding", "guide")
        and _number(-1e3, 1e3)(value.get("strength"))
    )


def check(one: Receipt, where: str) -> None:
    """Raises Problem for what no request of ours can say."""
    parameters = [p for s in SAMPLERS.values() for p in inspect.signature(s.function).parameters.values()]
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"noise"}
    newer = _number_of(versions(one).get("phosphene")) > _number_of(__version__)
    hint = f"; it is of Phosphene {versions(one)['phosphene']}, and this is {__version__}" if newer else ""
    for name, value in one.items():
        known = KNOWN.get(name, _plain if name in options else None)
        if known is None:
            raise Problem(f"{where}: its receipt says {name[:60]!r}, which is no setting that is known here{hint}")
        try:
            fine = value is None or known(value)
        except (TypeError, ValueError, OverflowError):
            fine = False
        if not fine:
            raise Problem(f"{where}: its receipt says {name}={str(value)[:60]!r}, which cannot be{hint}")
    for name in ("seed", "size", "model"):
        if one.get(name) is None:
            raise Problem(f"{where}: its receipt does not say {name}, without which it cannot be made again")


def versions(one: Receipt) -> dict[str, Any]:
    versions = one.get("versions")
    return versions if isinstance(versions, dict) else {}


def _number_of(text: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,6}", str(text or ""))[:3])
