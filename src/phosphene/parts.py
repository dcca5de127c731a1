"""Parts: objects that remember the arguments they were made with, so that a bundle can write them down.

A leaf module, standard library only, so that every room may use it.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any, TypeVar

T = TypeVar("T", bound=type)
PLAIN = (str, int, float, bool, type(None))


def part(cls: T) -> T:
    """Class decorator. Instances keep `arguments`: {name: value} of the constructor call, defaults filled in.

    A value is plain JSON (copied), another part (kept, a bundle writes a reference), or a class (a block kind).
    Anything else is refused when the part is made: TypeError names the argument.
    """
    init, signature = cls.__init__, inspect.signature(cls.__init__)

    @functools.wraps(init)
    def construct(self, *args: Any, **kwargs: Any) -> None:
        outermost = "arguments" not in self.__dict__
        if outermost:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            # object.__setattr__: also frozen dataclasses, and modules before nn.Module.__init__
            object.__setattr__(self, "arguments", {k: _kept(v, f"{cls.__name__}({k}=…)") for k, v in given.items()})
        init(self, *args, **kwargs)

    cls.__init__ = construct
    cls.is_part = True
    return cls


def is_part(value: object) -> bool:
    """Whether `value` is an instance of a class decorated with `part`."""
    return getattr(type(value), "is_part", False)


def again(it: Any, kind: type | None = None, **changed: Any) -> Any:
    """A part made anew, with the arguments of `it` but for those changed; of another class where `kind` says so."""
    return (kind or type(it))(**{**it.arguments, **changed})


def _kept(value: Any, where: str) -> Any:
    if is_part(value) or isinstance(value, type):
        return value
    if isinstance(value, PLAIN):
        return copy.copy(value)
    if isinstance(value, (list, tuple)):
        return [_kept(v, where) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: _kept(v, where) for k, v in value.items()}
    raise TypeError(f"{where} holds a {type(value).__name__}; a part is made from plain values, parts and classes")
