"""phosphene inspect: what a model file holds, from its header alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from phosphene.cli.options import call
from phosphene.weights import bundle


def main(argv: Sequence[str]) -> None:
    call(inspect, argv, "phosphene inspect")


def inspect(file: str, *, card: bool = True, words: bool = False):
    """Prints what a bundle is made of: its parts, parameters, types, vocabulary and model card. Loads no weights.

    file   a bundle, a run's folder or a shipped model's name
    card   print the model card too
    words  print everything that the model knows by name
    """
    told = bundle.describe(file)
    counts = told.parameters
    total = sum(counts.values())
    types = ", ".join(f"{dtype} {100 * n / total:.1f} %" for dtype, n in told.dtypes.items()) or "no numbers"
    print(
        f"{told.path}: {told.kind}, {total:,} parameters ({types}), {told.size / 1e6:.1f} MB, "
        f"sha256 {bundle.fingerprint(file)}…"
    )
    width = max(map(len, told.parts))
    for name, (kind, arguments) in told.parts.items():
        print(f"  {name:{width}s}  {kind:16s} {counts.get(name, 0):>12,d}  {_arguments(arguments)}".rstrip())
    entries, styles = told.vocabulary
    if entries:
        shown = entries if words or len(entries) <= 12 else [*entries[:12], "…"]
        hint = "" if shown is entries else " (--words shows them all)"
        print(f"knows {len(entries):,} names{hint}: {', '.join(shown)}")
    if styles:
        print(f"styles: {', '.join(styles)}")
    if card and told.card:
        print(f"\n{told.card.strip()}")


def _arguments(arguments: dict[str, Any], longest: int = 100) -> str:
    """name=value, …; parts and classes by their names; long values by their size."""
    return ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())[:longest]


def _short(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value.values())))
    if isinstance(value, list) and len(value) > 8:
        return f"[{len(value)} values]"
    if isinstance(value, str) and len(value) > 40:
        return _vocabulary(value) or f"<{len(value)} characters>"
    return json.dumps(value, ensure_ascii=False)


def _vocabulary(text: str) -> str | None:
    """A tokenizer's own JSON, as the number of words that it knows."""
    try:
        return f"<{len(json.loads(text)['model']['vocab']):,} tokens>"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
