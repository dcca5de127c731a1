"""Words with the system about memory. Where it does not understand them, nothing is said."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

from torch import Tensor

MADV_PAGEOUT = 21  # of Linux: the pages may go; whoever touches them again finds what was there


@functools.cache
def keep_freed() -> None:
    """Have glibc give freed memory to the next tensor, and not back to the system.

    By default every tensor above 32 MB is new memory, which the system clears page by page: at 64×64 latents in
    float32, a fifth of a step of Stable Diffusion's U-Net.
    """
    most, trim, threshold = 2**30, -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if (libc := _libc()) is not None and hasattr(libc, "mallopt"):
        libc.mallopt(threshold, most), libc.mallopt(trim, most)


def let_go(numbers: Tensor) -> None:
    """Says that `numbers` are not needed now. Where they lie in a mapped file, their memory is free again."""
    begin, page = numbers.data_ptr(), mmap.PAGESIZE
    end = (begin + numbers.nbytes) // page * page  # whole pages that are theirs alone
    begin = -(-begin // page) * page
    if end > begin and numbers.is_contiguous() and (libc := _libc()) is not None and _is_mapped(begin, end):
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_PAGEOUT)


def give_back() -> None:
    """Gives what has been freed back to the system: a tensor never fits where one of its size has been."""
    if (libc := _libc()) is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@functools.cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _is_mapped(begin: int, end: int) -> bool:
    """Whether a file is there, and not memory of the program's own."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            place, _, _, _, inode, *_ = line.split()
            first, last = (int(n, 16) for n in place.split("-"))
            if first <= begin and end <= last:
                return inode != "0"
    return False
