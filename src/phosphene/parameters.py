"""The web UI's "parameters": how a picture was made, as the text that most tools read from PNG, JPEG and WebP files.

    prompt
    Negative prompt: negative
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3, Size: 512x768, Model: …

The prompt's and the negative prompt's lines may be missing. It says less than a receipt: other libraries' pictures are
not made again exactly, but their settings are at hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from PIL import Image

from phosphene import __version__

KEY = "parameters"  # of the PNG's text chunk
NEGATIVE = "Negative prompt:"
EXIF, USER_COMMENT = 0x8769, 0x9286  # where JPEG and WebP files have it
SAMPLERS = {  # their name: ours
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "LMS": "lms",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "DPM++ 2S a": "dpmpp_2s_ancestral",
    "DPM++ SDE": "dpmpp_sde",
    "DDIM": "ddim",
    "PLMS": "plms",
    "UniPC": "unipc",
    "LCM": "lcm",
    **{name: name for name in ("ddpm", "deis", "langevin", "pndm")},  # which they do not have
}
SPACINGS = {  # their schedule: our spacing; the first of those that are one of ours is written
    "Karras": "karras",
    "Exponential": "exponential",
    "Uniform": "linspace",
    "Normal": "linspace",
    "Simple": "trailing",
    "SGM Uniform": "trailing",
    "DDIM": "leading",
}
_PAIR = re.compile(r"""(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)""")


def text(record: dict[str, Any]) -> str:
    """A receipt as the web UI writes it. What it has no key for is left out."""
    size = record.get("size") or {}
    second = record.get("strength") if record.get("strength") not in (None, 1) else record.get("hires_strength")
    skip = record.get("clip_skip")
    pairs = {
        "Steps": record.get("steps"),
        "Sampler": _theirs(SAMPLERS, record.get("sampler")),
        "Schedule type": _theirs(SPACINGS, record.get("spacing")),
        "CFG scale": record.get("guidance"),
        "Seed": record.get("seed"),
        "Size": f"{size['width']}x{size['height']}" if size else None,
        "Model hash": str(record["weights"])[:10] if record.get("weights") else None,
        "Model": record.get("model"),
        "Variation seed": record.get("variation_seed"),
        "Variation seed strength": record.get("variation_strength"),
        "Denoising strength": second,
        "Clip skip": skip if skip and skip > 1 else None,
        "Hires upscale": record.get("hires"),
        "Version": f"Phosphene {__version__}",
    }
    listed = ", ".join(key if str(value) == key else f"{key}: {quote(value)}" for key, value in _given(pairs))
    prompt, negative = (record.get(name) for name in ("prompt", "negative"))
    lines = [prompt, f"{NEGATIVE} {negative}" if isinstance(negative, str) and negative else None, listed]
    return "\n".join(str(line) for line in lines if line not in (None, "")).strip()


def quote(value: Any) -> Any:
    """A value as it stands in a list of pairs: in quotes, as JSON, where it would be taken apart."""
    return json.dumps(value, ensure_ascii=False) if set(str(value)) & set(",:\n") else value


def parse(written: str) -> dict[str, str]:
    """The text, taken apart as the web UI does: "Prompt", "Negative prompt", then every key; a size as two keys.

    The last line says settings if it has three or more of them, and belongs to the prompt otherwise.
    """
    *lines, last = written.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    lines = [line.strip() for line in lines]
    first = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = [line.removeprefix(NEGATIVE).strip() for line in lines[first:]]
    parsed = {"Prompt": "\n".join(lines[:first]), "Negative prompt": "\n".join(negative)}
    for key, value in pairs:
        value = _unquoted(value)
        if side := re.fullmatch(r"(\d+)x(\d+)", value):
            parsed |= {f"{key}-1": side[1], f"{key}-2": side[2]}
        else:
            parsed[key] = value
    return {**parsed, "Clip skip": parsed.get("Clip skip", "1")}


def told(parsed: dict[str, str]) -> dict[str, Any]:
    """What `parse` found, in our words: those options of `generate` that it says, and "parameters", all of it.

    A sampler that is none of ours is left out.
    """
    sampler, spacing = _sampler(parsed.get("Sampler", "")), SPACINGS.get(parsed.get("Schedule type", ""))
    width, height = (_number(parsed.get(f"Size-{i}"), int) for i in (1, 2))
    skip, strength = _number(parsed.get("Clip skip"), int), _number(parsed.get("Denoising strength"), float)
    hires = _number(parsed.get("Hires upscale"), float)
    found = {
        "prompt": parsed["Prompt"],
        "negative": parsed["Negative prompt"] or None,
        "seed": _number(parsed.get("Seed"), int),
        "steps": _number(parsed.get("Steps"), int),
        "sampler": sampler[0],
        "spacing": spacing or sampler[1],
        "guidance": _number(parsed.get("CFG scale"), float),
        "size": {"width": width, "height": height} if width and height else None,
        "model": parsed.get("Model"),
        "clip_skip": skip if skip and skip > 1 else None,
        "variation_seed": _number(parsed.get("Variation seed"), int),
        "variation_strength": _number(parsed.get("Variation seed strength"), float),
        "hires": hires,
        ("hires_strength" if hires else "strength"): strength,
    }
    return {**dict(_given(found)), "parameters": parsed}


def within(image: Image.Image) -> str | None:
    """The text in an open picture, None where there is none: PNG's text chunk, or the comment in others' EXIF."""
    image.load()  # text may stand behind the pixels
    if (found := getattr(image, "text", {}).get(KEY)) is not None:
        return str(found)
    comment = image.getexif().get_ifd(EXIF).get(USER_COMMENT)
    return _decoded(comment) if isinstance(comment, bytes) else comment or None


def _decoded(comment: bytes) -> str | None:
    """EXIF's user comment: eight bytes of encoding, then the text. UTF-16 comes in both orders, whatever it should."""
    encoding, rest = comment[:8], comment[8:]
    if encoding == b"UNICODE\0":
        order = "le" if rest[1::2].count(0) > rest[::2].count(0) else "be"
        return rest.decode(f"utf-16-{order}", "replace").removeprefix("\ufeff").rstrip("\0") or None
    plain = rest if encoding in (b"ASCII\0\0\0", bytes(8)) else comment
    return plain.decode("utf-8", "replace").rstrip("\0") or None


def _given(pairs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in pairs.items() if value is not None]


def _theirs(table: dict[str, str], ours: str | None) -> str | None:
    return next((name for name, value in table.items() if value == ours), ours)


def _sampler(name: str) -> tuple[str | None, str | None]:
    """(sampler, spacing), also of older names that hold both, such as "DPM++ 2M Karras"."""
    for schedule, spacing in (("Karras", "karras"), ("Exponential", "exponential")):
        if name.endswith(f" {schedule}"):
            return SAMPLERS.get(name.removesuffix(f" {schedule}")), spacing
    return SAMPLERS.get(name), None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _number(value: str | None, kind: Callable[[str], Any]) -> Any:
    try:
        number = kind(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
