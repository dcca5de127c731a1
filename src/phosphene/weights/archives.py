"""The files that pickles of tensors come in: zip archives, TorchScript, and the streams of torch before 1.6.

Each gives the pickle's tree, in which a tensor is a Stored: its place in the mapped file.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phosphene.errors import Problem
from phosphene.weights.pickles import DTYPE_OF, Machine, Named, Storage
from phosphene.weights.stored import DTYPES, Buffer, line, short

MAGIC = 0x1950A86A20F9469CFC6C  # what torch wrote first before 1.6
MAX_PROGRAM = 256 << 20  # bytes of one pickle without its tensors; some 100,000 are usual
MAX_BOMB = 20  # how many times larger than its file an archive may say to be; weights shrink by a tenth
BROKEN = (  # what a damaged pickle or archive leads to
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, EOFError, OSError,
    struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip


@dataclass
class Tree:
    """What a pickle holds: dicts, lists, tuples, plain values, Stored, Inert; and what it would have called."""

    root: Any
    foreign: list[str]


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
        holds = sorted(entries)[:3]
        raise Problem(f"{path} is a zip archive without data.pkl, so no checkpoint of PyTorch; it holds {short(holds)}")
    folder, program = roots[0][: -len("data.pkl")], entries[roots[0]]
    if f"{folder}byteorder" in entries and archive.open(f"{folder}byteorder").read(10) != b"little":
        raise Problem(f"{path} was written on a big-endian machine: save it again on this one")
    if program.file_size > MAX_PROGRAM:
        raise ValueError(f"a data.pkl of {program.file_size} bytes")

    def storage(pid: Any) -> Storage:
        dtype, key, count, _ = _reference(pid)
        entry = entries.get(f"{folder}data/{key}")
        if entry is None:
            raise ValueError(f"storage {key} is missing")
        if entry.file_size != count * DTYPES[dtype][0]:
            raise ValueError(f"storage {key} has {entry.file_size} bytes for {count} numbers of {dtype}")
        return Storage(dtype, count, *_held(path, data, entry))

    foreign: list[str] = []
    with archive.open(program) as file:
        return Tree(Machine(storage, foreign).run(io.BytesIO(file.read(program.file_size))), foreign)


def _reference(pid: Any) -> tuple[str, str, int, Any]:
    """(dtype, key, count, view) of the storage that a persistent id speaks of. ValueError where it makes no sense."""
    if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
        raise ValueError("a reference to what is no storage")
    _, named, key, _, count, *view = pid
    if not isinstance(key, (str, int)) or type(count) is not int or not 0 <= count < 1 << 60:
        raise ValueError("a storage without name or length")
    if not isinstance(named, Named) or named.name not in DTYPE_OF:
        raise ValueError(f"numbers of an unknown kind, {getattr(named, 'name', '?')}")
    return DTYPE_OF[named.name], str(key)[:200], count, view[0] if view else None


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
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":  # (…, class, its file, its source): the class
            return pid[1]
        dtype, key, count, view = _reference(pid)
        announced.setdefault(key, (dtype, count))
        begin = places.get(key, 0)
        if view is not None:
            _, offset, part = view
            if not all(type(n) is int and n >= 0 for n in (offset, part)) or offset + part > count:
                raise ValueError("a part of a storage that leaves it")
            begin, count = begin + offset * DTYPES[dtype][0], part
        if announced[key][0] != dtype or begin > len(data):
            raise ValueError(f"storage {key} is of two kinds")
        return Storage(dtype, count, begin, lambda: data)

    start = data.tell()
    foreign: list[str] = []
    Machine(storage, foreign).run(data)
    keys = Machine(_no_storage, []).run(data)
    position = data.tell()
    for key in keys:
        if not isinstance(key, str):
            raise ValueError("a storage without a name")
        dtype, count = announced.get(key, ("U8", 0))
        length = int.from_bytes(data[position : position + 8], "little")
        places[key], position = position + 8, position + 8 + count * DTYPES[dtype][0]
        if length != count or position > len(data):
            raise EOFError(f"storage {key[:40]} of {count} numbers is not whole")
    if missing := announced.keys() - places:
        raise EOFError(f"storage {min(missing)} is missing")
    data.seek(start)
    return Tree(Machine(storage, foreign).run(data), foreign)


def _damaged(path: Path, error: BaseException) -> Problem:
    return Problem(f"{path} is a pickle that is damaged or only half there ({line(error)}): download it again")
