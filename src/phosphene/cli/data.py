"""phosphene data: what a data spec contains, as a report and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.options import call
from phosphene.errors import Problem


def main(argv: Sequence[str]) -> None:
    call(data, argv, "phosphene data")


def data(spec: str, *, out: Path | None = None, n: int = 32, look: int = 2000):
    """Looks at a data spec: how many pictures, of which sizes, what is said of them, which ones are broken.

    A spec is a built-in set (scenes, emoji), a folder, a .parquet file, tar shards or hub:owner/name, with options and
    filters behind a colon: "scenes:size=64,split=unseen", "pictures.parquet:style==noto".

    spec  what to look at
    out   a .png file for a contact sheet of some of the pictures with their captions
    n     pictures on the sheet
    look  rows to look at, evenly spread
    """
    if out is not None and out.suffix.lower() != ".png":
        raise Problem(f"{out}: the sheet is written as .png")
    if n < 1 or look < 1:
        raise Problem(f"n={n}, look={look}: at least 1 was expected")
    from phosphene.data.base import open_source
    from phosphene.data.sheet import contact_sheet, report

    source = open_source(spec)
    if not len(source):
        raise Problem(f"{source.name} is empty: no picture in it, or none that passes the filters")
    found = report(source, max(look, n), n)
    print(found)
    if not found.examples:
        raise Problem(f"{source.name}: none of the pictures that were tried can be read; the first: {found.broken[0]}")
    for example in found.examples[:4]:
        print(f"for example: {' | '.join(example.captions) or example.label}")
    if out is None:
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(found.examples).save(out)
    except OSError as error:
        raise Problem(f"{out} cannot be written: {error.strerror or error}") from None
    print(out)
