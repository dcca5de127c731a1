"""Foreign formats as tables: which of their tensors is which of ours, and in what form it lies there.

A family's file makes a list of entries from a network's arguments, looping over its levels as the network does. `fill`
reads by that list, strictly: nothing is missing, nothing is left over, nothing is misshapen. `extract` writes by the
same list, so what reads also writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import Problem
from .files import Tensors

Net = TypeVar("Net", bound=nn.Module)
Shape = tuple[int, ...]


class Form(Protocol):
    """How one tensor of theirs holds one or several of ours."""

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Theirs → ours, of these shapes; ValueError where that cannot be."""

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        """Ours → theirs."""


@dataclass(frozen=True)
class Same:
    """The same numbers; a 1×1 convolution is a linear layer. Written with `ones` more sides of 1."""

    ones: int = 0

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        [shape] = shapes
        if _bare(theirs.shape) != _bare(shape):
            raise ValueError(f"is {list(theirs.shape)}, {list(shape)} was expected")
        return [theirs.reshape(shape)]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].reshape((*ours[0].shape, *[1] * self.ones))  # also of a number, which has no sides


@dataclass(frozen=True)
class Transposed:
    """x @ P there, a linear layer's P.T here."""

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        [shape] = shapes
        if tuple(theirs.shape) != shape[::-1]:
            raise ValueError(f"is {list(theirs.shape)}, {list(shape[::-1])} was expected")
        return [theirs.T.contiguous()]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].T.contiguous()


@dataclass(frozen=True)
class Packed:
    """Several of ours in the rows of one: [q|k|v], or with `heads` head by head, [q|k|v] inside each (ADM's order).

    Written with `ones` more sides of 1.
    """

    heads: int = 1
    ones: int = 0

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        n, shape = len(shapes), shapes[0]
        if _bare(theirs.shape) != _bare((n * shape[0], *shape[1:])) or shape[0] % self.heads:
            raise ValueError(f"is {list(theirs.shape)}, {n} times {list(shape)} in {self.heads} heads was expected")
        rows = theirs.reshape(self.heads, n, shape[0] // self.heads, *shape[1:])
        return [rows[:, i].reshape(shape) for i in range(n)]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        shape = ours[0].shape
        rows = torch.stack([t.reshape(self.heads, shape[0] // self.heads, *shape[1:]) for t in ours], dim=1)
        return rows.reshape(len(ours) * shape[0], *shape[1:], *[1] * self.ones)


SAME, TRANSPOSED = Same(), Transposed()


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs and the one or several keys of ours that it holds."""

    ours: tuple[str, ...]
    theirs: str
    form: Form = SAME


def entry(ours: str | Sequence[str], theirs: str, form: Form = SAME) -> Entry:
    """An Entry; one key may be given as itself."""
    return Entry((ours,) if isinstance(ours, str) else tuple(ours), theirs, form)


def layer(ours: str | Sequence[str], theirs: str, form: Form = SAME, *, bias: bool = True) -> list[Entry]:
    """The weight and the bias of a layer; `form` is the weight's, and where that is Packed the bias is packed alike."""
    names = (ours,) if isinstance(ours, str) else tuple(ours)
    made = [entry([f"{n}.weight" for n in names], f"{theirs}.weight", form)]
    if bias:
        flat = Packed(form.heads) if isinstance(form, Packed) else SAME
        made.append(entry([f"{n}.bias" for n in names], f"{theirs}.bias", flat))
    return made


def under(ours: str, theirs: str, entries: Iterable[Entry]) -> list[Entry]:
    """The same entries inside a larger module: each key with its prefix in front."""
    return [Entry(tuple(ours + o for o in e.ours), theirs + e.theirs, e.form) for e in entries]


def empty(make: Callable[[], Net]) -> Net:
    """A module on the meta device: its shapes and no numbers, for `fill` to give it."""
    with torch.device("meta"):
        return make()


def fill(
    module: Net,
    entries: Sequence[Entry],
    tensors: Mapping[str, Tensor],
    *,
    what: str,
    dtype: torch.dtype | None = torch.float32,
    own: Mapping[str, Tensor] = {},
    ignore: Callable[[str], bool] = lambda key: False,
) -> Net:
    """The module with every parameter and buffer from `tensors`, in eval mode; all of them or a Problem.

    The tensors are assigned and not copied, so a module on the meta device costs nothing, and what is memory-mapped
    and of the right dtype stays so.
    what    names the file in errors
    dtype   of floating tensors; None: as they lie there
    own     {key of ours: tensor} that their file does not have
    ignore  which of their keys are not needed
    """
    wanted = module.state_dict(keep_vars=True)
    missing = sorted(e.theirs for e in entries if e.theirs not in tensors)
    extra = sorted(key for key in set(tensors) - {e.theirs for e in entries} if not ignore(key))
    if missing:
        raise Problem(f"{what} lacks {_some(missing)}")
    if extra:
        raise Problem(f"{what} holds {_some(extra)}, for which this network has no place")
    found = dict(own)
    for e in entries:
        theirs = tensors[e.theirs]
        try:
            parts = e.form.read(theirs, [tuple(wanted[key].shape) for key in e.ours])
        except ValueError as error:
            raise Problem(f"{what}: {e.theirs} {error}") from None
        for key, part in zip(e.ours, parts, strict=True):
            found[key] = part.to(dtype) if dtype and part.is_floating_point() else part
        if dtype and theirs.is_floating_point() and theirs.dtype != dtype and isinstance(tensors, Tensors):
            tensors.stored[e.theirs].forget()  # all of it was copied: the file's pages need not stay in memory
    assert set(found) == set(wanted), f"the table misses {sorted(set(wanted) ^ set(found))[:5]}"  # ours to get right
    module.load_state_dict(found, assign=True)
    return module.eval()


@contextlib.contextmanager
def understood(what: str) -> Iterator[None]:
    """Around what makes a network of a file's keys, shapes and settings: where these make none, a Problem in one line.

    For damaged files: a table that meets a tensor where it is not, or a setting that is not what it is called.
    """
    try:
        yield
    except Problem:
        raise
    except (LookupError, StopIteration, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise Problem(f"{what} makes no network that is known here ({type(error).__name__}: {said[:200]})") from error


def extract(module: nn.Module, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """{key of theirs: tensor}: what `fill` reads, for writing."""
    ours = {key: t.detach() for key, t in module.state_dict().items()}
    return {e.theirs: e.form.write([ours[key] for key in e.ours]).contiguous() for e in entries}


def _bare(shape: Sequence[int]) -> Shape:
    """A shape without the sides of 1 at its end, beyond the second: (o, i, 1, 1) is (o, i)."""
    shape = tuple(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _some(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more tensors"
