"""From a function's signature to command-line options: the parameters are the options, the docstring is the help.

    def generate(*prompts: str, seed: tuple[int, ...] = (), grid: bool = False): …

reads `"a fox" --seed 4 5 --grid`. Commands are such functions, and so is every recipe, whose knobs are its parameters.
Types: str, int, float, bool (a flag), Path, Literal, tuple or list of one of these, and each of them or None.
"""

from __future__ import annotations

import argparse
import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from phosphene.errors import Problem, unknown

WANTED = {int: "a whole number", float: "a number", str: "words", Path: "a path"}
MANY = (tuple, list, collections.abc.Sequence)


def call(function: Callable, argv: Sequence[str], prog: str) -> Any:
    """`function`, called with what `argv` says."""
    [given] = parse(argv, prog, function)
    names = [p.name for p in _parameters(function) if p.kind is p.VAR_POSITIONAL]
    words = [word for name in names for word in given.pop(name)]
    return function(*words, **given)


def parse(argv: Sequence[str], prog: str, *functions: Callable) -> list[dict[str, Any]]:
    """The arguments for each function, by name, from one command line; what is not said has the function's default.

    The first function's docstring describes them all. Raises Problem, one line, for an option that none of them has or
    a value of another type; suggests the nearest.
    """
    parser = _Parser(prog=prog, formatter_class=_Help, allow_abbrev=False)
    parser.description = _docs(functions[0])[0]
    for function in functions:
        for parameter in _parameters(function):
            _add(parser, parameter, _docs(function)[1].get(parameter.name, ""))
    said, rest = parser.parse_known_intermixed_args(argv)
    for word in rest:
        if word.startswith("-") and word != "-":
            raise unknown(f"option of `{prog}`", word.split("=")[0], parser.names())
        raise Problem(f"{word!r} is one word too many for `{prog}`; words with spaces want quotes")
    return [{p.name: getattr(said, p.name) for p in _parameters(function)} for function in functions]


def summary(function: Callable) -> str:
    """The first sentence of its docstring."""
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ").strip()


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Problem(f"{message.removeprefix('argument ')}. `{self.prog} --help` says more")

    def names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


def _parameters(function: Callable) -> list[inspect.Parameter]:
    """Its parameters with their annotations as types, where those can be had."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation that only a type checker can read: the default's type has to do
        hints = {}
    parameters = inspect.signature(function).parameters.values()
    return [p.replace(annotation=hints.get(p.name, _guess(p))) for p in parameters]


def _guess(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if isinstance(default, (tuple, list)):
        return tuple[type(default[0]) if default else str, ...]
    return type(default) if isinstance(default, (bool, int, float)) else str


def _docs(function: Callable) -> tuple[str, dict[str, str]]:
    """(description, {parameter: help}): the docstring's lines of the form `name  what it does` are the help."""
    names, description, helps, current = set(inspect.signature(function).parameters), [], {}, ""
    for line in (inspect.getdoc(function) or "").splitlines():
        match = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        told = match[1].split(", ") if match else []
        if match and names.issuperset(told):
            current = told[-1]
            helps.update(dict.fromkeys(told, match[2]))
        elif current and line.startswith("  "):
            helps[current] += f" {line.strip()}"
        else:
            current = ""
            description.append(line)
    return "\n".join(description).strip(), helps


def _add(parser: _Parser, parameter: inspect.Parameter, text: str) -> None:
    name, default = parameter.name, parameter.default
    kinds, many, optional = _taken_apart(parameter.annotation)
    read = _reader(kinds, optional)
    text = text.replace("%", "%%")
    if parameter.kind is parameter.VAR_POSITIONAL:
        parser.add_argument(name, nargs="*", type=read, help=text, metavar=name.upper().rstrip("S"))
    elif default is parameter.empty:
        parser.add_argument(name, type=read, help=text, metavar=name.upper())
    else:
        flags = [f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"]
        shown = "" if default in (None, (), "", False) else f" [{' '.join(map(str, default)) if many else default}]"
        told: dict[str, Any] = {"dest": name, "default": default, "help": (text + shown).strip()}
        if kinds == [bool]:
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction if default else "store_true", **told)
        else:
            parser.add_argument(*flags, type=read, nargs="+" if many else None, metavar=_metavar(kinds), **told)


def _taken_apart(annotation: Any) -> tuple[list[Any], bool, bool]:
    """(the types a word can have, whether there can be many words, whether None is allowed)."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = list(typing.get_args(annotation)) if union else [annotation]
    kinds, many = [], False
    for member in members:
        origin = typing.get_origin(member) or member
        if origin in MANY:
            many = True
            kinds += [a for a in typing.get_args(member)[:1] or (str,) if a is not ...]
        elif member is not type(None):
            kinds.append(member)
    return list(dict.fromkeys(kinds)), many, type(None) in members


def _reader(kinds: list[Any], optional: bool) -> Callable[[str], Any]:
    """text -> value, by the first of the types that can read it; "none" is None where that is allowed."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        for kind in kinds:
            if typing.get_origin(kind) is typing.Literal:
                choices = {str(v): v for v in typing.get_args(kind)}
                if text not in choices:
                    raise argparse.ArgumentTypeError(str(unknown("value", text, choices)))
                return choices[text]
            try:
                return kind(text) if kind in WANTED else text
            except ValueError:
                continue
        wanted = " or ".join(WANTED.get(kind, "words") for kind in kinds)
        raise argparse.ArgumentTypeError(f"{text!r}, where {wanted} was expected")

    return read


def _metavar(kinds: list[Any]) -> str:
    if typing.get_origin(kinds[0]) is typing.Literal:
        return "|".join(map(str, typing.get_args(kinds[0])))
    return {int: "N", float: "X", Path: "PATH"}.get(kinds[0], "WORD")
