"""phosphene inspect: what a model file holds, from what it announces alone; of a picture, how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phosphene import receipt
from phosphene.cli.options import call
from phosphene.errors import Problem
from phosphene.weights import bundle


def main(argv: Sequence[str]) -> None:
    call(inspect, argv, "phosphene inspect")


def inspect(file: str, *, tell: tuple[str, ...] = (), card: bool = True, words: bool = False):
    """Prints what a model, or a LoRA, is made of: its parts, parameters, types; of a checkpoint, what is assumed of it.

    Of a bundle its vocabulary and model card too, of a picture how it was made. Loads no weights. Of a checkpoint of
    which something is missing, what is there, and what is not.

    file   a bundle, a run's folder, a shipped model's name or a checkpoint (docs/checkpoints.md), or a picture
    tell   what a checkpoint does not say, as NAME=VALUE, such as predicts=v
    card   print the model card too
    words  print everything that the model knows by name
    """
    if receipt.is_picture(file):
        _picture(file)
    elif Path(file).is_dir() and _lora(file):
        pass
    elif bundle.is_bundle(file):
        _bundle(file, card, words)
    elif not _lora(file):
        _checkpoint(file, tell)


def _picture(file: str) -> None:
    """Its own receipts, to the last number, and the web UI's parameters, which other tools read."""
    found, written = receipt.both(file)
    for made in found:
        print(f"{file}: made by Phosphene")
        for name, value in made.items():
            print(f"  {name:12s}  {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    if written:
        print(f"{file}: the web UI's parameters")
        print("\n".join(f"  {line}" for line in written.splitlines()))
    if not found and not written:
        print(f"{file}: a picture that does not say how it was made")


def _bundle(file: str, card: bool, words: bool) -> None:
    told = bundle.describe(file)
    counts = told.parameters
    print(f"{told.path}: {told.kind}, {_numbers(told.dtypes)}, {told.size / 1e6:.1f} MB, sha256 {_hash(file)}")
    _table([(name, kind, counts.get(name, 0), arguments) for name, (kind, arguments) in told.parts.items()])
    for each in told.worn:
        print(f"wears {each.get('name')!r} at strength {each.get('strength')}: its part {each.get('part')}")
    for name in told.outside:
        if not Path(name).is_dir():
            print(f"missing: {name}, by which it reads words: no folder here, and a bundle does not hold it")
    entries, styles = told.vocabulary
    if entries:
        shown = entries if words or len(entries) <= 12 else [*entries[:12], "…"]
        hint = "" if shown is entries else " (--words shows them all)"
        print(f"knows {len(entries):,} names{hint}: {', '.join(shown)}")
    if styles:
        print(f"styles: {', '.join(styles)}")
    if card and told.card:
        print(f"\n{told.card.strip()}")


def _checkpoint(file: str, tell: Sequence[str]) -> None:
    from phosphene.weights.load import words_told
    from phosphene.weights.survey import survey

    try:
        seen = survey(file, words_told(tell))
    except Problem:
        _outline(file)
        raise
    size = sum(path.stat().st_size for path in seen.files) / 1e6
    print(f"{seen.path}: {seen.what}, {_numbers(seen.dtypes)}, {size:.1f} MB, sha256 {_hash(file)}")
    _table(seen.parts)
    for remark in seen.remarks:
        print(f"note: {remark}")
    if seen.options:
        print("can be told, as --tell NAME=VALUE:")
        width = max(map(len, seen.options))
        for name, meaning in seen.options.items():
            print(f"  {name:{width}s}  {meaning}")


def _outline(file: str) -> None:
    """What there is of a checkpoint that cannot be loaded as it lies there; why not is said behind it."""
    from phosphene.weights.survey import outline

    seen = outline(file)
    size = sum(path.stat().st_size for path, _, _ in seen.files) / 1e6
    print(f"{seen.path}: {seen.what}, {size:.1f} MB, sha256 {_hash(file)}")
    for path, kind, dtypes in seen.files:
        print(f"  {path.name if path == seen.path else path.relative_to(seen.path)}: {kind}, {_numbers(dtypes)}")
    for what in seen.missing:
        print(f"missing: {what}")


def _lora(file: str) -> bool:
    """Whether it is a LoRA: then what it changes, and whose it seems to be."""
    from phosphene.weights.lora import is_lora, read
    from phosphene.weights.low_rank import TEXT

    if not is_lora(file):
        return False
    found = read(file)
    ranks = _listed(sorted({low.rank for low in found.layers.values()}))
    scales = _listed(sorted({round(low.scale, 4) for low in found.layers.values()}))
    text = sum(name.startswith(TEXT) for name in found.layers)
    print(f"{found.path}: a LoRA, it seems for {found.family}; sha256 {_hash(str(found.path))}")
    print(f"  {len(found.layers)} layers, {text} of them of the text encoder; rank {ranks}, scale {scales}")
    for note in found.notes:
        print(f"note: {note}")
    for key, value in found.metadata.items():
        print("  " + "".join(c if c.isprintable() else " " for c in f"{key} = {value}")[:110])
    return True


def _listed(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"


def _numbers(dtypes: dict[str, int]) -> str:
    total = sum(dtypes.values())
    types = ", ".join(f"{dtype} {100 * n / total:.1f} %" for dtype, n in dtypes.items()) or "no numbers"
    return f"{total:,} parameters ({types})"


def _hash(file: str) -> str:
    return f"{bundle.fingerprint(file)}…"


def _table(parts: Sequence[tuple[str, str, int, dict[str, Any]]]) -> None:
    width, kinds = max(len(p[0]) for p in parts), max(16, *(len(p[1]) for p in parts))
    for name, kind, count, arguments in parts:
        print(f"  {name:{width}s}  {kind:{kinds}s} {count:>13,d}  {_arguments(arguments)}".rstrip())


def _arguments(arguments: dict[str, Any], longest: int = 100) -> str:
    """name=value, …; parts and classes by their names; long values by their size."""
    return ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())[:longest]


def _short(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        [inside] = value.values()
        return f"<{len(inside)} entries>" if isinstance(inside, dict) and len(inside) > 8 else str(inside)
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
