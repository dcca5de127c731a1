"""The web UI's prompt grammar: emphasis, schedules, AND, BREAK and LoRA tags, as plain data.

    loras("a <lora:ink:0.8> cat")       what to apply, and the prompt without the tags
    at_steps("[a:b:0.5] [c|d]", 20)     the prompt at each step of a run
    subprompts("a AND b :0.5")          what is composed, and with which weight
    emphasised("(a:1.3) [b] BREAK c")   fragments with weights, in chunks: what encoders take

docs/prompts.md describes the grammar and says where it differs from the web UI's, and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from ..errors import Problem

NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"  # read in one way only: no search is ever quadratic
DEEPEST = 100  # brackets within brackets

# Emphasis ------------------------------------------------------------------------------------------------------------


class Fragment(NamedTuple):
    """A stretch of a prompt and its weight; 1 is none."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Emphasised:
    """A prompt as fragments with weights, in the chunks that BREAK parts it into (one, if there is no BREAK)."""

    chunks: tuple[tuple[Fragment, ...], ...]

    @property
    def weighted(self) -> bool:
        """Whether any weight is other than 1."""
        return any(f.weight != 1 for chunk in self.chunks for f in chunk)

    def characters(self) -> tuple[str, list[float]]:
        """The text without the grammar, a space for each BREAK, and the weight of each of its characters."""
        parts = [(f.text, f.weight) for chunk in self.chunks for f in (*chunk, Fragment(" "))][:-1]
        return "".join(text for text, _ in parts), [w for text, w in parts for _ in text]

    def __str__(self) -> str:
        return self.characters()[0]


EMPTY = Emphasised(((),))
UP, DOWN = 1.1, 1 / 1.1  # what ( ) and [ ] do to the weight
_MARK = re.compile(
    rf"""\\(?P<escaped>[\\()\[\]]?)                   # a backslash before anything else is dropped
       | (?P<open>[(\[])
       | :\s*(?P<weight>{NUMBER})\s*(?P<weighted>\))  # also closes
       | (?P<close>[)\]])
       | (?P<plain>[^\\()\[\]:]+ | :)""",
    re.X | re.S,
)


def emphasised(text: str) -> Emphasised:
    """(x) is x times 1.1, [x] over 1.1, (x:1.5) times 1.5, and nested ones multiply.

    A backslash before a bracket makes it text. Brackets left open act to the end; those that close nothing are text.
    The word BREAK begins a new chunk. Raises Problem for more than 100 brackets within brackets.
    """
    said: list[tuple[str | None, float]] = []  # (text, weight); a text of None is BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where in `said` brackets began

    def close(bracket: str, factor: float) -> None:
        first = opened[bracket].pop()
        said[first:] = [(t, w * factor) for t, w in said[first:]]

    for mark in _MARK.finditer(text):
        if mark["open"]:
            opened[mark["open"]].append(len(said))
            _not_too_deep(len(opened["("]) + len(opened["["]))
        elif mark["weighted"] and opened["("]:
            close("(", float(mark["weight"]))
        elif mark["close"] == ")" and opened["("]:
            close("(", UP)
        elif mark["close"] == "]" and opened["["]:
            close("[", DOWN)
        elif mark["escaped"] is not None:
            said.append((mark["escaped"], 1.0))
        else:
            said += [(t, 1.0) for t in _broken(mark[0])]
    for bracket, factor in (("(", UP), ("[", DOWN)):
        while opened[bracket]:
            close(bracket, factor)
    return Emphasised(tuple(_chunks(said)))


def _broken(text: str) -> Iterator[str | None]:
    """What stands between the BREAKs, without the blanks beside them, and None for each BREAK."""
    parts = re.split(r"\bBREAK\b", text)
    for i, stretch in enumerate(parts):
        if i:
            yield None
            stretch = stretch.lstrip()
        yield stretch if i == len(parts) - 1 else stretch.rstrip()


def _not_too_deep(brackets: int) -> None:
    if brackets > DEEPEST:
        raise Problem(f"a prompt with more than {DEEPEST} brackets within brackets cannot be read")


def _chunks(said: list[tuple[str | None, float]]) -> Iterator[tuple[Fragment, ...]]:
    """What stands between the BREAKs, neighbours of one weight joined."""
    breaks = [-1, *(i for i, (text, _) in enumerate(said) if text is None), len(said)]
    for a, b in pairwise(breaks):
        alike = groupby((p for p in said[a + 1 : b] if p[0]), key=lambda p: p[1])
        yield tuple(Fragment("".join(t for t, _ in run), weight) for weight, run in alike)


# AND, and tags -------------------------------------------------------------------------------------------------------


def subprompts(text: str) -> list[tuple[str, float]]:
    """The sub-prompts that the word AND parts, and their weights: "a :1.2 AND b" is a by 1.2 and b by 1.

    Unlike in the web UI a weight is one only beside an AND: "a clock at 10:30" says nothing about weights.
    """
    parts = re.split(r"\bAND\b", text)
    if len(parts) == 1:
        return [(text, 1.0)]
    weighed = [re.search(rf":\s*({NUMBER})\s*$", part) for part in parts]
    return [(p[: w.start()].rstrip(), float(w[1])) if w else (p.rstrip(), 1.0) for p, w in zip(parts, weighed)]


def loras(text: str) -> tuple[str, list[tuple[str, float]]]:
    """The text without its <lora:name:weight> tags, and (name, weight) of each; a weight not given is 1.

    Raises Problem for a weight that is not one number.
    """
    found = []

    def take(tag: re.Match[str]) -> str:
        name, _, weight = tag[1].strip().partition(":")
        if not name or not re.fullmatch(NUMBER, weight.strip() or "1"):
            raise Problem(f"{tag[0]}: <lora:name:weight> was expected, the weight one number such as 0.8")
        found.append((name, float(weight.strip() or 1)))
        return ""

    return re.sub(r"<lora:([^<>]*)>", take, text), found


# Schedules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switch:
    """[before:after:when]: `after` once step `when` is over; a `when` with a "." is a share of the steps."""

    before: Nodes
    after: Nodes
    when: str

    def at(self, step: int, steps: int) -> Nodes:
        last = float(self.when) * (steps if "." in self.when else 1)
        return self.before if step <= int(max(0, min(steps, last))) else self.after


@dataclass(frozen=True)
class Alternate:
    """[a|b|…]: the next one at every step."""

    options: tuple[Nodes, ...]

    def at(self, step: int, steps: int) -> Nodes:
        return self.options[(step - 1) % len(self.options)]


Nodes = tuple[str | Switch | Alternate, ...]


def at_steps(text: str, steps: int) -> list[str]:
    """The prompt at each step of a run, its schedules and alternations resolved; emphasis is left as it is.

    Brackets that are not balanced, and what they hold that is neither [a:b:when], [b:when], [a::when] nor [a|b], are
    text. Raises Problem for more than 100 brackets within brackets.
    """
    nodes = _parsed(text)
    return [_said(nodes, step, steps) for step in range(1, steps + 1)]


def bare(text: str) -> str:
    """The words alone, of all steps: what a vocabulary is asked about."""
    return str(emphasised(" ".join(_leaves(_parsed(loras(text)[0])))))


def _said(nodes: Nodes, step: int, steps: int) -> str:
    return "".join(n if isinstance(n, str) else _said(n.at(step, steps), step, steps) for n in nodes)


def _leaves(nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        else:
            for inner in (node.before, node.after) if isinstance(node, Switch) else node.options:
                yield from _leaves(inner)


def _parsed(text: str) -> Nodes:
    return _sequence(text, _pairs(text), 0, len(text))


def _pairs(text: str) -> dict[int, int]:
    """{opening bracket: closing bracket} of those pairs within which all brackets are paired too."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for i in _top_level(text, {}, 0, len(text)):
        if text[i] in "([":
            opened.append(i)
            _not_too_deep(len(opened))
        elif text[i] in ")]":
            if opened and text[opened[-1]] + text[i] in ("()", "[]"):
                pairs[opened.pop()] = i
            else:
                opened.clear()  # all that are open hold a bracket without a partner
    return pairs


def _top_level(text: str, pairs: dict[int, int], start: int, end: int) -> Iterator[int]:
    """Places in text[start:end] outside of bracket pairs, of which the opening one counts, and of escapes."""
    while start < end:
        yield start
        start = pairs[start] + 1 if start in pairs else start + (2 if text[start] == "\\" else 1)


def _sequence(text: str, pairs: dict[int, int], start: int, end: int) -> Nodes:
    nodes: list[str | Switch | Alternate] = []
    for i in _top_level(text, pairs, start, end):
        if i in pairs:
            close = pairs[i]
            nodes.append(text[start:i])
            if text[i] == "[" and (changing := _square(text, pairs, i, close)):
                nodes.append(changing)
            else:
                nodes += [text[i], *_sequence(text, pairs, i + 1, close), text[close]]
            start = close + 1
    return tuple(n for n in (*nodes, text[start:end]) if n)


def _square(text: str, pairs: dict[int, int], start: int, end: int) -> Switch | Alternate | None:
    """What the square brackets at text[start] and text[end] are, if they change with the steps."""
    cuts = [i for i in _top_level(text, pairs, start + 1, end) if text[i] in ":|"]
    marks = {text[i] for i in cuts}
    ends = [(a + 1, b) for a, b in pairwise([start, *cuts, end])]
    if marks == {"|"}:
        return Alternate(tuple(_sequence(text, pairs, a, b) for a, b in ends))
    when = text[ends[-1][0] : end].strip()
    if marks != {":"} or len(ends) > 3 or not re.fullmatch(NUMBER, when):
        return None
    *before, after = (_sequence(text, pairs, a, b) for a, b in ends[:-1])
    return Switch(before[0] if before else (), after, when)
