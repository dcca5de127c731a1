"""Options from signatures: types, help, and one line for everything that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from phosphene.cli.options import call, parse
from phosphene.errors import Problem


def recipe(
    *words: str,
    width: int = 96,
    rate: float = 3e-4,
    channels: tuple[int, ...] = (1, 2),
    norm: Literal["group", "layer"] = "group",
    start: Path | None = None,
    depth: int | None = 2,
    flip: bool = True,
    size: int | str = 32,
    n: int = 1,
):
    """Trains a thing.

    At 100 % of the cost.

    width      of the first
               level, 100 % of it
    rate, depth  two at once
    """
    return words, width, rate, channels, norm, start, depth, flip, size, n


def test_types_are_those_of_the_signature():
    line = "a b --width 8 --rate 1e-2 --channels 3 4 5 --norm layer --start x/y --depth none --no-flip --size big -n 3"
    got = call(recipe, line.split(), "recipe")
    assert got == (("a", "b"), 8, 1e-2, [3, 4, 5], "layer", Path("x/y"), None, False, "big", 3)
    assert call(recipe, ["--size", "64"], "recipe") == ((), 96, 3e-4, (1, 2), "group", None, 2, True, 64, 1)


def test_help_comes_from_the_docstring(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], "recipe", recipe)
    out = " ".join(capsys.readouterr().out.split())
    assert "Trains a thing. At 100 % of the cost." in out
    assert "of the first level, 100 % of it [96]" in out and out.count("two at once") == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--widht 3", "unknown option of `recipe` '--widht'; did you mean '--width'?"),
        ("--width=x", "--width: 'x', where a whole number was expected"),
        ("--width 1.5", "--width: '1.5', where a whole number"),
        ("--width", "--width: expected one argument"),
        ("--rate fast", "'fast', where a number was expected"),
        ("--channels", "expected at least one argument"),
        ("--channels 1 x", "'x', where a whole number"),
        ("--norm grup", "unknown value 'grup'; did you mean 'group'?"),
        ("--depth nun", "'nun', where a whole number"),
    ],
)
def test_what_cannot_be_read_is_one_line(line, says):
    with pytest.raises(Problem) as caught:
        call(recipe, line.split(), "recipe")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_words_too_many_are_named():
    def one(word: str):
        """One."""
        return word

    assert call(one, ["a"], "one") == "a"
    with pytest.raises(Problem, match="'b' is one word too many"):
        call(one, ["a", "b"], "one")
    with pytest.raises(Problem, match="WORD"):
        call(one, [], "one")


def test_annotations_that_only_a_checker_can_read_fall_back_to_the_default():
    def odd(width: NoSuchType = 4, channels: NoSuchType = (1, 2), name: NoSuchType = None):  # noqa: F821
        """Odd."""
        return width, channels, name

    assert call(odd, ["--width", "5", "--channels", "6", "--name", "x"], "odd") == (5, [6], "x")
