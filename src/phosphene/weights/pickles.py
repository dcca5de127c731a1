"""Pickles, read without running them.

A pickle is a program for a small stack machine, two of whose instructions import what the file names and call it.
The machine here has those two do nothing: a name becomes a Named, and what would have been called becomes an Inert,
which holds its arguments and its state. Only what is in CALLS, by name, becomes something, and all that these can make
is plain data and Stored, a tensor's place in the file. So reading is the same as for any other format.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from phosphene.weights.stored import DTYPES, Buffer, Stored

MAX_STEPS = 2_000_000  # instructions of one pickle: a checkpoint with its optimiser has some 100,000
MAX_VIEW = 1 << 22  # elements of a tensor that repeats what is stored (strides of 0)
MAX_ARGS = 20  # of a call

_STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64", "Untyped": "U8",
}  # fmt: skip
DTYPE_OF = {f"{place}.{name}Storage": t for name, t in _STORAGES.items() for place in ("torch", "torch.cuda")}
DTYPE_OF |= {f"torch.storage.{name}Storage": t for name, t in _STORAGES.items()}
DTYPE_OF |= {f"torch.{name}": t for t, (_, name) in DTYPES.items()}
_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


class Named(NamedTuple):
    """A class or function that the file names; it is not looked up."""

    name: str


class Inert:
    """What a call would have made: its name and arguments, the state it would have been given, what was put in."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any):
        self.name, self.args = name, args
        self.state: Any = None
        self.items: dict[Any, Any] = {}


class Storage(NamedTuple):
    """Numbers in a row: the bytes from `begin` of what `held` returns."""

    dtype: str
    count: int
    begin: int
    held: Callable[[], Buffer]


# The closed table of calls ------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, dtype: str | None = None) -> Stored:
    """A view of a storage. ValueError where it leaves the storage or repeats it endlessly."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not all(type(sizes) in (tuple, list) and len(sizes) <= 64 for sizes in (shape, stride)):
        raise ValueError("a tensor without a shape")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 60 for n in numbers):
        raise ValueError("a tensor whose shape, strides or offset are no natural numbers")
    dtype = dtype or storage.dtype
    size = DTYPES[dtype][0]
    room = storage.count * DTYPES[storage.dtype][0] // size
    stored = Stored(dtype, tuple(shape), storage.begin + offset * size, tuple(stride), storage.held)
    if stored.count and offset + stored.extent > room:
        raise ValueError(f"a tensor of shape {shape} that reaches out of its storage of {room} numbers")
    if stored.count > max(room, MAX_VIEW):
        raise ValueError(f"a tensor of shape {shape} made of {room} numbers")
    return stored


def _tensor_v3(storage, offset, shape, stride, grad, hooks, dtype, *rest) -> Stored:
    return _tensor(storage, offset, shape, stride, DTYPE_OF[dtype.name])


def _subclass(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return called(function.name, args)


def _dict(pairs: Any = ()) -> dict:
    """An OrderedDict. Older pickles give its items to the constructor, as a list, which is emptied: otherwise one list
    could be copied a million times."""
    if isinstance(pairs, dict):
        return pairs
    made: dict[Any, Any] = {}
    if isinstance(pairs, list):
        made.update((key, value) for key, value in pairs if _is_key(key))
        pairs.clear()
    return made


def _is_key(key: Any) -> bool:
    """Of other keys, hashing alone can take for ever."""
    return key is None or type(key) in (str, bool) or (type(key) is int and -(1 << 62) < key < 1 << 62)


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """A numpy number, from its bytes."""
    code, state = dtype.args[0], dtype.state
    raw = raw.encode("latin-1") if isinstance(raw, str) and len(raw) <= 8 else raw
    if not (isinstance(code, str) and isinstance(raw, bytes)):
        return None
    big = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
    return struct.unpack((">" if big else "<") + _SCALARS[code], raw)[0] if code in _SCALARS else None


def _encoded(text: Any, encoding: Any) -> bytes | None:
    """The bytes of a numpy number in protocol 2; longer ones are of arrays, which are not read."""
    return text.encode("latin-1") if isinstance(text, str) and len(text) <= 8 else None


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args[:4]),
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch.nn.parameter.Parameter": lambda data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": lambda sizes=(): sizes,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *factory: {},
    **{
        f"{place}.{kind}": lambda items=(): items
        for place in ("builtins", "__builtin__")
        for kind in ("set", "frozenset")
    },
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}


def called(name: str, args: Any) -> Any:
    """What a call in the table makes."""
    if type(args) is not tuple or len(args) > MAX_ARGS:
        raise ValueError(f"a call of {name} with odd arguments")
    return CALLS[name](*args)


# The machine --------------------------------------------------------------------------------------------------------

_MARK = object()


class Machine:
    """Runs one pickle. `storage(pid)` gives the Storage of a persistent id."""

    def __init__(self, storage: Callable[[Any], Any], foreign: list[str]):
        self.storage, self.foreign = storage, foreign
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        """The object of the pickle at the stream's position, which then stands behind it.

        Raises what parsing leads to where the pickle is damaged, as `archives.BROKEN` lists it.
        """
        for step, (op, argument, _) in enumerate(pickletools.genops(stream)):
            if step > MAX_STEPS:
                raise ValueError(f"more than {MAX_STEPS} instructions")
            if op.name == "STOP":
                return self.pop()
            if op.name not in _HANDLERS:
                raise ValueError(f"the instruction {op.name}, which no checkpoint has")
            _HANDLERS[op.name](self, argument)
        raise EOFError("it ends in the middle")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value was expected")
        return value

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a class without a name")
        self.push(Named(f"{module[:100]}.{name[:100]}"))

    def call(self, target: Any, args: Any) -> None:
        """What stands for target(*args)."""
        name = target.name if isinstance(target, Named) else f"a {type(target).__name__}"
        if isinstance(target, Named) and name in CALLS:
            self.push(called(name, args))
        else:
            if name not in self.foreign and len(self.foreign) < 20:
                self.foreign.append(name)
            self.push(Inert(name, args))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.top()
        target = target.items if isinstance(target, Inert) else target
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k))

    def build(self, state: Any) -> None:
        if isinstance(target := self.top(), Inert):
            target.state = state

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()


def _dict_of(m: Machine, items: list[Any]) -> None:
    m.push({})
    m.update(items)


def _inst(m: Machine, name: str) -> None:
    args = tuple(m.marked())
    m.name(*name.split(" ", 1))
    m.call(m.pop(), args)


def _pop(m: Machine, _: Any) -> None:
    m.stack.pop()


def _pop_mark(m: Machine, _: Any) -> None:
    m.marked()


def _reduce(m: Machine, _: Any) -> None:
    args, target = m.pop(), m.pop()
    m.call(target, args)


def _newobj_ex(m: Machine, _: Any) -> None:
    _named, args, target = m.pop(), m.pop(), m.pop()
    m.call(target, args)


def _obj(m: Machine, _: Any) -> None:
    target, *args = m.marked()
    m.call(target, tuple(args))


def _stack_global(m: Machine, _: Any) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _taken(n: int) -> Callable[[Machine, Any], None]:
    def taken(m: Machine, _: Any) -> None:
        m.push(tuple(reversed([m.pop() for _ in range(n)])))

    return taken


_VALUES = (  # the instructions that put their argument on the stack
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
)
_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.push(_MARK),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda m, a: m.push(m.top()),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "LIST": lambda m, a: m.push(m.marked()),
    "APPEND": lambda m, a: m.extend([m.pop()]),
    "APPENDS": lambda m, a: m.extend(m.marked()),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "TUPLE": lambda m, a: m.push(tuple(m.marked())),
    "TUPLE1": _taken(1),
    "TUPLE2": _taken(2),
    "TUPLE3": _taken(3),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "DICT": lambda m, a: _dict_of(m, m.marked()),
    "SETITEM": lambda m, a: m.update([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.update(m.marked()),
    "EMPTY_SET": lambda m, a: m.push([]),
    "ADDITEMS": lambda m, a: m.extend(m.marked()),
    "FROZENSET": lambda m, a: m.push(m.marked()),
    "PUT": Machine.remember,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": lambda m, a: m.remember(len(m.memo)),
    "GET": lambda m, a: m.push(m.memo[a]),
    "BINGET": lambda m, a: m.push(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.push(m.memo[a]),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "REDUCE": _reduce,
    "BUILD": lambda m, a: m.build(m.pop()),
    "PERSID": lambda m, a: m.push(m.storage(a)),
    "BINPERSID": lambda m, a: m.push(m.storage(m.pop())),
    **dict.fromkeys(_VALUES.split(), Machine.push),
}
