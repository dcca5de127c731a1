"""Pickles, read without running them.

A pickle is a program for a small stack machine, two of whose instructions import what the file names and call it.
The machine here has those two do nothing: a name becomes a Named, and what would have been called becomes an Inert,
which holds its arguments and its state. Only what is in CALLS, by name, becomes something, and all that these can make
is plain data and Stored, a tensor's place in the file. So reading is the same as for any other format.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phosphene.errors import Problem
from phosphene.weights.stored import DTYPES, Buffer, Stored, line

MAGIC = 0x1950A86A20F9469CFC6C  # what torch wrote first before 1.6
MAX_STEPS = 2_000_000  # instructions of one pickle: a checkpoint with its optimiser has some 100,000
MAX_PROGRAM = 256 << 20  # bytes of them
MAX_BOMB = 20  # how many times larger than its file an archive may say to be; weights shrink by a tenth
MAX_VIEW = 1 << 22  # elements of a tensor that repeats what is stored (strides of 0)
BROKEN = (  # what a damaged pickle or archive leads to
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, EOFError, OSError,
    struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError, AssertionError,
)  # fmt: skip

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
        self.name, self.args, self.state, self.items = name, args, None, {}


class Storage(NamedTuple):
    """Numbers in a row: the bytes from `begin` of what `held` returns."""

    dtype: str
    count: int
    begin: int
    held: Callable[[], Buffer]


@dataclass
class Tree:
    """What a pickle holds: dicts, lists, tuples, plain values, Stored, Inert; and the names that it asked for."""

    root: Any
    foreign: list[str]


# The closed table of calls ------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, dtype: str | None = None) -> Stored:
    """A view of a storage. ValueError where it leaves the storage or repeats it endlessly."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > 64 or not all(type(n) is int and 0 <= n < 1 << 60 for n in numbers):
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
    return CALLS[function.name](*args)


def _dict(pairs: Any = ()) -> dict:
    """An OrderedDict. Older pickles give its items to the constructor, as a list, which is emptied: otherwise one list
    could be copied a million times."""
    if isinstance(pairs, dict):
        return pairs
    made = {key: value for key, value in pairs if _is_key(key)}
    if isinstance(pairs, list):
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
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}


# The machine --------------------------------------------------------------------------------------------------------

_MARK = object()


class Machine:
    """Runs one pickle. `storage(pid)` gives the Storage of a persistent id."""

    def __init__(self, storage: Callable[[Any], Any], foreign: list[str]):
        self.storage, self.foreign = storage, foreign
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        """The object of the pickle at the stream's position, which then stands behind it. One of BROKEN is raised
        where it is damaged."""
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
            self.push(CALLS[name](*args))
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
    "POP_MARK": lambda m, a: m.marked() and None,
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


# Files of pickles ---------------------------------------------------------------------------------------------------


def read_zip(path: Path, data: Buffer) -> Tree:
    """A .pt or .ckpt of torch since 1.6, or a TorchScript archive: data.pkl, and each storage an entry beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(path, data, archive)
    except Problem:
        raise
    except zipfile.BadZipFile as error:
        raise Problem(f"{path} is a zip archive, truncated or damaged ({line(error)}): download it again") from None
    except BROKEN as error:
        raise _damaged(path, error) from None


def _read_zip(path: Path, data: Buffer, archive: zipfile.ZipFile) -> Tree:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if sum(e.file_size for e in entries.values()) > MAX_BOMB * len(data) + (1 << 20):
        raise Problem(f"{path} would unpack to more than {MAX_BOMB} times its size, which no checkpoint does")
    roots = sorted((n for n in entries if n.rpartition("/")[2] == "data.pkl"), key=lambda n: n.count("/"))
    if not roots:
        holds = ", ".join(sorted(entries)[:3])[:80]
        raise Problem(f"{path} is a zip archive without data.pkl, so no checkpoint of PyTorch; it holds {holds}")
    folder, program = roots[0][: -len("data.pkl")], entries[roots[0]]
    if f"{folder}byteorder" in entries and archive.open(f"{folder}byteorder").read(10) != b"little":
        raise Problem(f"{path} was written on a big-endian machine: save it again on this one")
    if program.file_size > MAX_PROGRAM:
        raise ValueError(f"a data.pkl of {program.file_size} bytes")

    def storage(pid: Any) -> Storage:
        kind, named, key, _, count, *_ = pid
        dtype = _stored_as(kind, named, key, count)
        entry = entries.get(f"{folder}data/{key}")
        if entry is None:
            raise ValueError(f"storage {key} is missing")
        if entry.file_size != count * DTYPES[dtype][0]:
            raise ValueError(f"storage {key} has {entry.file_size} bytes for {count} numbers of {dtype}")
        return Storage(dtype, count, *_held(path, data, entry))

    foreign: list[str] = []
    with archive.open(program) as file:
        return Tree(Machine(storage, foreign).run(io.BytesIO(file.read(program.file_size))), foreign)


def _stored_as(kind: Any, named: Any, key: Any, count: Any) -> str:
    """The dtype of the storage that a persistent id speaks of. ValueError where it makes no sense."""
    if kind != "storage" or not isinstance(key, (str, int)) or type(count) is not int or not 0 <= count < 1 << 60:
        raise ValueError("a reference to what is no storage")
    if not isinstance(named, Named) or named.name not in DTYPE_OF:
        raise ValueError(f"numbers of an unknown kind, {getattr(named, 'name', '?')}")
    return DTYPE_OF[named.name]


def _held(path: Path, data: Buffer, entry: zipfile.ZipInfo) -> tuple[int, Callable[[], Buffer]]:
    """(where it begins, what holds it): in the mapped file as it lies, or unpacked each time where compressed."""
    if entry.flag_bits & 1:
        raise ValueError("it is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED:
        return 0, lambda: _unpacked(path, entry)
    head = data[entry.header_offset : entry.header_offset + 30]
    if head[:4] != b"PK\x03\x04" or entry.compress_size != entry.file_size:
        raise ValueError(f"entry {entry.filename[:80]} is not where the directory says")
    name, extra = struct.unpack("<HH", head[26:30])
    begin = entry.header_offset + 30 + name + extra
    if begin + entry.file_size > len(data):
        raise ValueError(f"entry {entry.filename[:80]} reaches beyond the file")
    return begin, lambda: data


def _unpacked(path: Path, entry: zipfile.ZipInfo) -> bytearray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as file:
            content = bytearray(file.read(entry.file_size))
        if len(content) != entry.file_size:
            raise EOFError(f"entry {entry.filename[:80]} is shorter than announced")
        return content
    except BROKEN as error:
        raise _damaged(path, error) from None


def read_stream(path: Path, data: mmap.mmap) -> Tree:
    """A .pt of torch before 1.6: pickles of the magic number, the version, the machine, the object and the storages'
    keys, then the storages, each after its length. Or another program's plain pickle."""
    try:
        data.seek(0)
        first = Machine(_no_storage, []).run(data)
        return _read_stream(data) if first == MAGIC else Tree(first, [])
    except BROKEN as error:
        raise _damaged(path, error) from None


def _no_storage(pid: Any) -> None:
    raise ValueError("a reference to a storage, of which there are none")


def _read_stream(data: mmap.mmap) -> Tree:
    version, machine = Machine(_no_storage, []).run(data), Machine(_no_storage, []).run(data)
    if version != 1001 or not (isinstance(machine, dict) and machine.get("little_endian", True)):
        raise ValueError("a version other than 1001, or a big-endian machine's")
    places: dict[str, int] = {}  # known after the object: it is read again once they are
    announced: dict[str, tuple[str, int]] = {}

    def storage(pid: Any) -> Any:
        kind, named, *rest = pid
        if kind == "module":  # (class, its file, its source): the class
            return named
        key, _, count, *view = rest
        dtype = _stored_as(kind, named, key, count)
        announced.setdefault(str(key), (dtype, count))
        begin, size = places.get(str(key), 0), DTYPES[dtype][0]
        if view and view[0] is not None:
            _, offset, part = view[0]
            if not all(type(n) is int and n >= 0 for n in (offset, part)) or offset + part > count:
                raise ValueError("a part of a storage that leaves it")
            begin, count = begin + offset * size, part
        return Storage(dtype, count, begin, lambda: data)

    start, foreign = data.tell(), []
    Machine(storage, foreign).run(data)
    keys = Machine(_no_storage, []).run(data)
    position = data.tell()
    for key in keys:
        dtype, count = announced.get(key, ("U8", 0)) if isinstance(key, str) else ("U8", 0)
        length = int.from_bytes(data[position : position + 8], "little")
        places[key] = position + 8
        position += 8 + count * DTYPES[dtype][0]
        if length != count or position > len(data):
            raise EOFError(f"storage {key[:40]} of {count} numbers is not whole")
    if missing := announced.keys() - places:
        raise ValueError(f"storage {min(missing)[:40]} is missing")
    data.seek(start)
    return Tree(Machine(storage, foreign).run(data), foreign)


def _damaged(path: Path, error: BaseException) -> Problem:
    return Problem(f"{path} is a pickle that is damaged or only half there ({line(error)}): download it again")
