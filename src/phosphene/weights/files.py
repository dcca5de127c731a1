"""The files that weights come in: containers only, no names of any family.

`open_tensors` reads .safetensors, every kind of PyTorch pickle (`pickles` runs none of it) and sharded sets, recognised
by their content and never by their suffix. Nothing of a tensor is read before it is asked for, and then it is mapped
into memory. Whatever is wrong with a file is a Problem that says what was found and what to do.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem, regular
from phosphene.weights.archives import Tree, read_stream, read_zip
from phosphene.weights.stored import DTYPES, Stored, line, mapped, short
from phosphene.weights.trees import plainly, state_dict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER = 64 << 20  # bytes of a .safetensors' header, or of a .json
SPACES = b"\xef\xbb\xbf \t\r\n"  # what a text file may begin with
NOT_WEIGHTS = [  # how files begin that are often taken for weights
    (b"version https://git-lfs", "a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet table"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
]


class Tensors(Mapping[str, "Tensor"]):
    """{name: tensor} of a file; a tensor is mapped into memory when it is asked for.

    path      the file
    stored    {name: Stored}, what the file says of each
    metadata  of a .safetensors, else {}
    rest      what a pickle holds beside tensors, plain values only
    """

    def __init__(
        self,
        path: Path,
        stored: dict[str, Stored],
        metadata: dict[str, str] | None = None,
        rest: dict[str, Any] | None = None,
    ):
        self.path, self.stored, self.metadata, self.rest = path, stored, metadata or {}, rest or {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape}, for which nothing is read."""
        return {key: stored.shape for key, stored in self.stored.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self.stored[key].tensor()

    def read(self, key: str, dtype: torch.dtype | None) -> Tensor:
        """The tensor in another dtype, as a copy, or as it lies there where it has that dtype or None is asked for."""
        return self.stored[key].tensor(dtype)

    def __contains__(self, key: object) -> bool:
        return key in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def under(self, prefix: str) -> Tensors:
        """The tensors whose names begin with `prefix`, which is taken off."""
        inside = {k[len(prefix) :]: s for k, s in self.stored.items() if k.startswith(prefix)}
        return Tensors(self.path, inside, self.metadata, self.rest)


def open_tensors(path: str | Path) -> Tensors:
    """The tensors in a .safetensors, a .ckpt, .pt, .pth or .bin (no code in it is run), or a sharded set's index.json.

    Raises Problem, one line, for whatever else it is, and where it is damaged or not whole.
    """
    path = Path(path)
    data = _bytes(path)
    if not _is_safetensors(data[:9]) and data[:64].lstrip(SPACES).startswith((b"{", b"[")):
        return _sharded(path, read_json(path))
    return _opened(path, data)


def read_pickle(path: str | Path) -> Any:
    """What a pickle holds as dicts, lists, plain values and tensors. Other objects are a dict of their state, or None.

    Raises Problem where it is none, or damaged. Nothing that it names is imported or called.
    """
    path = Path(path)
    data = _bytes(path)
    if not _is_pickle(data[:9]):
        raise Problem(f"{path} is {guess(data[:512])}; a pickle was expected")
    return plainly(path, _tree(path, data))


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file. Raises Problem where it cannot be read or is something else."""
    regular(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_HEADER + 1)
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_HEADER:
        raise Problem(f"{path} has more than {MAX_HEADER} bytes; a small JSON file was expected")
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        what = guess(content) if any(content.startswith(m) for m, _ in NOT_WEIGHTS) else f"not JSON ({line(error)})"
        raise Problem(f"{path} is {what}") from None
    if not isinstance(value, dict):
        raise Problem(f"{path} holds a JSON {type(value).__name__}, an object was expected")
    return value


def weight_file(
    folder: str | Path,
    names: tuple[str, ...] = ("diffusion_pytorch_model", "model", "pytorch_model"),
    variant: str | None = None,
) -> Path:
    """The file of a component's weights in its folder, or the index of its shards.

    The variant asked for first, else the plain one before fp16; .safetensors before .bin. Raises Problem, naming what
    is there, where none is.
    """
    folder = Path(folder)
    for kind in (variant, None, "fp16") if variant else (None, "fp16"):
        v = f".{kind}" if kind else ""
        for suffix in ("safetensors", "bin"):
            for name in names:
                indices = f"{name}.{suffix}.index{v}.json", f"{name}{v}.{suffix}.index.json"
                for file in (f"{name}{v}.{suffix}", *indices):
                    if (folder / file).is_file():
                        return folder / file
    if not folder.is_dir():
        raise Problem(f"{folder} is not there")
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    raise Problem(f"{folder} holds no weights: {names[0]}.safetensors or .bin was expected, there is {there}")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Writes a .safetensors, in place at once or not at all. Raises Problem where the path cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # as the user's umask has it; safetensors makes files that only their owner reads
        save_file(dict(tensors), partial, metadata)
        partial.chmod(mode)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise Problem(f"{path} cannot be written: {getattr(error, 'strerror', None) or line(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


# One file -----------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> mmap.mmap:
    if path.is_dir():
        there = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        raise Problem(f"{path} is a folder, a file of weights was expected; in it is {there}")
    return mapped(path)


def _opened(path: Path, data: mmap.mmap) -> Tensors:
    if _is_pickle(data[:9]):
        stored, rest = state_dict(path, _tree(path, data))
        return Tensors(path, stored, None, rest)
    stored, metadata = header(path, data)
    return Tensors(path, stored, metadata)


def _is_safetensors(start: bytes) -> bool:
    """The header's length, of which three bytes are 0 below 1 TB, and the brace that opens it. A length alone can begin
    like a pickle or a JSON file."""
    return start[5:9] == b"\0\0\0{"


def _is_pickle(start: bytes) -> bool:
    return start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80")) and not _is_safetensors(start)


def _tree(path: Path, data: mmap.mmap) -> Tree:
    return read_zip(path, data) if data[:2] == b"PK" else read_stream(path, data)


def guess(start: bytes) -> str:
    """What a file that begins like this is, if not .safetensors."""
    if start.lstrip(SPACES).startswith(b"<"):
        return "a web page (HTML or XML), not weights: download the file itself"
    if _is_pickle(start):
        kind = "a zip archive" if start.startswith(b"PK") else "a Python pickle"
        return f"{kind}, as .pt and .ckpt files are, not opened as .safetensors (a pickle can hold code)"
    if start[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.1.10: unpack it, or save it again"
    known = (what for magic, what in NOT_WEIGHTS if start.startswith(magic))
    return next(known, f"no .safetensors file and no PyTorch pickle: it begins with {short(start[:8])}")


# .safetensors -------------------------------------------------------------------------------------------------------


def header(path: Path, data: mmap.mmap) -> tuple[dict[str, Stored], dict[str, str]]:
    """({name: Stored}, metadata) of a .safetensors: its header's length (8 bytes, little endian), JSON, the numbers.

    Raises Problem where it is something else or not whole.
    """
    size, start = len(data), data[:512]
    if size < 8:
        raise Problem(f"{path} has {size} bytes; a .safetensors file was expected")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER and not _is_safetensors(start[:9]):
        raise Problem(f"{path} is {guess(start)}")
    if length > MAX_HEADER:
        raise Problem(
            f"{path} announces a .safetensors header of {length / 2**20:,.0f} MB; at most {MAX_HEADER >> 20} MB are "
            "read, as a header is taken into memory whole: it names some 600,000 tensors, far more than a model has"
        )
    if 8 + length > size:
        raise Problem(f"{path} is truncated: its header alone takes {8 + length} bytes, the file has {size}")
    announced = parsed(path, data[8 : 8 + length], "its header")
    metadata = announced.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Problem(f"{path} is damaged: its metadata are {short(metadata)}, texts by name were expected")
    return _announced(path, announced, 8 + length, data), metadata


def parsed(path: Path, text: bytes | str, what: str) -> dict[str, Any]:
    """The JSON object inside a .safetensors. Raises Problem where it is none."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is damaged, or not a .safetensors file: {what} is not JSON ({line(error)})") from None
    if not isinstance(value, dict):
        raise Problem(f"{path}: {what} is a JSON {type(value).__name__}, an object was expected")
    return value


def _announced(path: Path, entries: dict[str, Any], start: int, data: mmap.mmap) -> dict[str, Stored]:
    """{name: Stored}. The tensors must fill the bytes from `start` on, without holes and without overlap."""
    tensors, spans, there = {}, [], len(data) - start
    for key, entry in entries.items():
        if isinstance(entry, dict) and isinstance(d := entry.get("dtype"), str) and d not in DTYPES:
            raise Problem(f"{path}: tensor {short(key)} is of dtype {short(d)}; read are {', '.join(DTYPES)}")
        try:
            begin, end = (_natural(n) for n in entry["data_offsets"])
            shape = tuple(_natural(n) for n in entry["shape"])
            stored = Stored(entry["dtype"], shape, start + begin, None, lambda: data)
            sound = end - begin == DTYPES[stored.dtype][0] * stored.count and key.isprintable() and len(shape) <= 64
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise Problem(f"{path} is damaged: tensor {short(key)} is announced as {short(entry)}")
        tensors[key] = stored
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise Problem(f"{path} is damaged: its tensors overlap or leave a hole at byte {position} of the data")
        position = end
    if position > there:
        raise Problem(f"{path} is truncated: its tensors take {position} bytes, {there} are there; download it again")
    if position < there:
        raise Problem(f"{path} is damaged: {there - position} bytes follow its last tensor")
    return tensors


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 60:
        raise ValueError(value)
    return value


# Sharded sets -------------------------------------------------------------------------------------------------------


def _sharded(path: Path, index: dict[str, Any]) -> Tensors:
    """The tensors of all shards that an index names, each from the shard where the index says it is."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise Problem(f"{path} is JSON, neither weights nor an index of shards; it says {short(index)}")
    shards: dict[str, dict[str, Stored]] = {}
    for key, name in places.items():
        if name not in shards:
            shards[name] = _shard(path, name)
        if key not in shards[name]:
            raise Problem(f"{path.parent / name} lacks tensor {short(key)}, which {path.name} says it holds")
    return Tensors(path, {key: shards[name][key] for key, name in places.items()})


def _shard(index: Path, name: str) -> dict[str, Stored]:
    if name in ("", ".", "..") or not name.isprintable() or any(c in name for c in "/\\:"):
        raise Problem(f"{index}: its shard {short(name)} is not the name of a file in the same folder")
    path = index.parent / name
    if not os.path.isfile(path):  # unlike Path's, which raises where the name is too long for a file
        raise Problem(f"{index}: its shard {short(name)} is missing; download it into the same folder")
    return _opened(path, mapped(path)).stored
