"""A tensor that lies in a file: what is said of it, where its bytes are, and how torch gets to see them.

Nothing here imports torch before a tensor is asked for. A file is mapped privately: a tensor's pages are read when they
are touched, may be written to, and never reach the file.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem, regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Buffer = mmap.mmap | bytearray
_shapes_only: ContextVar[bool] = ContextVar("shapes_only", default=False)

# dtype as safetensors writes it: (bytes, name in torch)
DTYPES = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U64": (8, "uint64"),
    "U32": (4, "uint32"),
    "U16": (2, "uint16"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
    "C64": (8, "complex64"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor as its file announces it.

    begin    byte of its first element in what `held` returns
    stride   in elements; None where it is contiguous
    held     () -> the mapped file, or the bytes of one compressed entry
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    stride: tuple[int, ...] | None = None
    held: Callable[[], Buffer] = field(default=bytearray, repr=False, compare=False)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """How many elements lie from its first to its last."""
        if self.stride is None or not self.count:
            return self.count
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor itself, on the CPU, as it lies there or in `dtype`.

        As it lies there it is memory-mapped, but for odd places (copied) and bools (read as not 0). In another dtype it
        is a copy, and the memory of what was read is given back.
        """
        tensor = self._bare() if _shapes_only.get() else self._mapped()
        if dtype is None or tensor.dtype == dtype:
            return tensor
        copy = tensor.to(dtype)
        self.forget()
        return copy

    def forget(self) -> None:
        """Gives the memory back that reading this tensor took; what was written to it in memory is lost."""
        buffer, page = self.held(), mmap.PAGESIZE
        begin = -(-self.begin // page) * page  # whole pages that are this tensor's alone
        length = (self.begin + self.extent * DTYPES[self.dtype][0]) // page * page - begin
        if length > 0 and isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            buffer.madvise(mmap.MADV_DONTNEED, begin, length)

    def _bare(self) -> Tensor:
        import torch

        return torch.empty(self.shape, dtype=getattr(torch, DTYPES[self.dtype][1]), device="meta")

    def _mapped(self) -> Tensor:
        import torch

        size, name = DTYPES[self.dtype]
        dtype = torch.uint8 if name == "bool" else getattr(torch, name)
        if not self.count:
            return torch.empty(self.shape, dtype=getattr(torch, name))
        buffer, begin = self.held(), self.begin
        if begin % size:  # old pickles put tensors anywhere, and torch wants them where the processor does
            buffer, begin = bytearray(memoryview(buffer)[begin : begin + self.extent * size]), 0
        flat = torch.frombuffer(buffer, dtype=dtype, count=self.extent, offset=begin)
        shaped = flat.view(self.shape) if self.stride is None else flat.as_strided(self.shape, self.stride)
        return shaped != 0 if name == "bool" else shaped


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Tensors asked for in this context are on the meta device: nothing of a file but what it announces is read."""
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def mapped(path: Path) -> mmap.mmap:
    """The file's bytes, mapped privately. Raises Problem where it cannot be read."""
    regular(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else None
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read: {getattr(error, 'strerror', None) or line(error)}") from None
    if data is None:
        raise Problem(f"{path} is empty (0 bytes): download it again")
    return data


def short(value: Any) -> str:
    """The value in at most 80 characters, for errors."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a deep {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"


def line(error: BaseException) -> str:
    """The first line of an error, without what a terminal would obey."""
    lines = str(error).strip().splitlines()
    text = (lines[0] if lines else type(error).__name__)[:200]
    return "".join(c if c.isprintable() else "?" for c in text)
