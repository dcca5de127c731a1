"""What a user can cause. Everything else that goes wrong is our own mistake and shows its traceback."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class Problem(ValueError):
    """A user's input cannot be used: the message names the file, field or value, and what would be right.

    The command line prints it on one line and exits with 2.
    """


def unknown(what: str, name: object, known: Iterable[str]) -> Problem:
    """The Problem for a name that is not among `known`: suggests the nearest, then lists them all."""
    names = sorted(known)
    same = {known.lower(): known for known in names}
    near = difflib.get_close_matches(str(name).lower(), same, n=1, cutoff=0.5)
    hint = f"; did you mean {same[near[0]]!r}?" if near else "."
    return Problem(f"unknown {what} {name!r}{hint} Known: {', '.join(names)}")


def regular(path: str | os.PathLike[str]) -> None:
    """Raises Problem for what is there and is no file: a folder, or a pipe or a device, whose reading may never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise Problem(f"{path} is a folder or a device, a file was expected")


class Assumed(UserWarning):
    """A file does not say something that its pictures depend on, and a documented default was taken."""
