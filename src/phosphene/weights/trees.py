"""The trees that pickles hold, made into what is of use: a state dict by dotted names, or plain dicts and tensors.

A tree is as large, as deep and as often shared as somebody else chose, and may hold itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phosphene.errors import Problem
from phosphene.weights.archives import Tree
from phosphene.weights.pickles import Inert
from phosphene.weights.stored import Stored, short

MAX_NODES = 1_000_000  # of a tree; some 10,000 are usual
MAX_DEPTH = 100
MAX_NAME = 1000  # characters of a tensor's name
# Where state dicts lie in what training scripts save; the averaged weights before the raw ones
WRAPPERS = ("state_dict", "ema", "params_ema", "model_state_dict", "model", "module", "params", "weights", "net")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def state_dict(path: Path, tree: Tree) -> tuple[dict[str, Stored], dict[str, Any]]:
    """({dotted name: Stored}, the plain values that lie beside). Raises Problem where there is no tensor."""
    rest: dict[str, Any] = {}
    walk = Walk(path)
    root = _innermost(tree.root, walk, rest)
    stored = dict(walk.tensors(root))
    if not stored:
        names = f"; it calls {', '.join(map(short, tree.foreign[:3]))}, which was not done" if tree.foreign else ""
        raise Problem(f"{path} is a pickle without tensors{names}")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in stored):
            stored = {key.removeprefix(prefix): s for key, s in stored.items()}
    return stored, rest


def plainly(path: Path, tree: Tree) -> Any:
    """The tree with tensors in it; an object is a dict of its state, or None."""
    try:
        return _plainly(tree.root, {})
    except RecursionError:
        raise Problem(f"{path} is nested too deep for a checkpoint") from None


class Walk:
    """Goes through a tree whose size, depth and sharing somebody else chose: a Problem before it gets out of hand."""

    def __init__(self, path: Path):
        self.path, self.left = path, MAX_NODES

    def step(self, depth: int, name: str = "") -> None:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise Problem(f"{self.path} is nested too deep, or too large, for a checkpoint")

    def tensors(self, value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Stored]]:
        """(dotted name, Stored) of every tensor inside."""
        self.step(depth, name)
        if isinstance(value, Stored):
            if not name.isprintable():
                raise Problem(f"{self.path}: {short(name)} is no name of a tensor")
            yield name, value
        for key, inside in _contents(value).items():
            yield from self.tensors(inside, f"{name}.{key}" if name else str(key), depth + 1)

    def plain(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Those of the values that are plain: numbers, texts, and lists and dicts of nothing else."""
        found = {}
        for key, value in values.items():
            try:
                found[str(key)] = self.value(value, 0)
            except TypeError:
                continue
        return found

    def value(self, value: Any, depth: int) -> Any:
        self.step(depth)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, dict):
            return {str(k): self.value(v, depth + 1) for k, v in value.items()}
        if type(value) in (list, tuple):
            return [self.value(v, depth + 1) for v in value]
        raise TypeError(type(value))


def _innermost(root: Any, walk: Walk, rest: dict[str, Any]) -> Any:
    """The state dict itself. `rest` gets what is plain on the way to it, and in it."""
    while True:
        rest |= walk.plain(_contents(root))
        inside = (root.get(w) for w in WRAPPERS) if isinstance(root, dict) else ()
        inner = (v for v in inside if isinstance(v, (dict, Inert)) and any(walk.tensors(v)))
        if (found := next(inner, None)) is None:
            return root
        root = found


def _contents(value: Any) -> dict[Any, Any]:
    """What a dict, or what stands for an object, holds by name; of a module its parameters, buffers and children."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Inert):
        return {}
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    if not isinstance(state, dict):
        return value.items
    groups = [state.get(g) for g in ("_parameters", "_buffers", "_modules")]
    if not any(isinstance(g, dict) for g in groups):
        return {**value.items, **state}
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, list) else []
    return {k: v for g in groups if isinstance(g, dict) for k, v in g.items() if k not in passing}


def _plainly(value: Any, done: dict[int, Any]) -> Any:
    """The tree with tensors in it. What lies at several places is made once, and may hold itself."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) not in done:
        if isinstance(value, Stored):
            done[id(value)] = value.tensor()
        elif isinstance(value, (dict, Inert)):
            made: dict[Any, Any] = {}
            done[id(value)] = made
            made.update((k, _plainly(v, done)) for k, v in _contents(value).items())
        elif type(value) in (list, tuple):
            listed: list[Any] = []
            done[id(value)] = listed
            listed.extend(_plainly(v, done) for v in value)
        else:
            return None
    return done[id(value)]
