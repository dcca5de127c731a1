"""What test_faults has done in processes of their own: trainings on disks that fill up or become read-only."""

import ctypes
import os
import resource
from pathlib import Path

import torch
from killing import left
from toys import Data, Toy, weights

from phosphene.errors import Problem
from phosphene.training import checkpoint, train

NEW_MOUNTS, NEW_USER, READ_ONLY, AGAIN = 0x20000, 0x10000000, 1, 32  # of sched.h and mount.h
PAGE = 4096


class Tmpfs:
    """A file system of so many pages, which this process alone sees. Raises OSError where that is not permitted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.libc = folder, ctypes.CDLL(None, use_errno=True)
        ids = (("setgroups", "deny"), ("uid_map", f"0 {os.getuid()} 1"), ("gid_map", f"0 {os.getgid()} 1"))
        self._done(self.libc.unshare(NEW_MOUNTS | NEW_USER))
        for name, content in ids:
            Path("/proc/self", name).write_text(content)
        self.flags = 0

    def has(self, pages: int, read_only: bool = False) -> None:
        how = self.flags | (READ_ONLY if read_only else 0)
        size = f"size={pages * PAGE}".encode()
        self._done(self.libc.mount(b"tmpfs", str(self.folder).encode(), b"tmpfs", how, size))
        self.flags = AGAIN

    def _done(self, result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Limit:
    """No file may be longer than some bytes, a fifth more for every page."""

    def __init__(self, folder: Path) -> None:
        pass

    def has(self, pages: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(PAGE / 8 * 1.2**pages), hard))


def steps(out: Path):
    how = {"steps": 8, "checkpoint_every": 2, "log_every": 1, "sample_every": 4, "warmup": 2, "lr": 3e-3}
    return train(Toy(), Data(), out=out, resume=True, save=_large, sample=_noise, tensorboard=False, **how)


def _noise(system: Toy) -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _large(system: Toy, path: Path, card: str | None) -> None:
    path.write_bytes(20 * weights(system))  # so that there may be room for a checkpoint and none for it


def undisturbed(pipe, folder: str) -> None:
    for _ in steps(Path(folder) / "run"):
        pass
    pipe.send(left(Path(folder) / "run"))


def newest(out: Path) -> int:
    """The step of the newest checkpoint that is whole; 0: there is none."""
    there = checkpoint.newest(out / "checkpoints", aside=False)
    return there[1]["step"] if there else 0


def filling(pipe, folder: str, disk: str) -> None:
    """Goes on with one run until it is done, on a disk that has a page more each time."""
    out, told = Path(folder) / "run", []
    try:
        space = {"tmpfs": Tmpfs, "limit": Limit}[disk](Path(folder))
        space.has(1)
    except OSError as error:
        return pipe.send((None, f"no file system of its own is permitted here: {error}"))
    for pages in range(1, 1000):
        space.has(pages)
        before = newest(out)
        try:
            for _ in steps(out):
                pass
            return pipe.send((told, left(out)))
        except Problem as problem:
            told.append((str(problem), before, newest(out)))


def read_only(pipe, folder: str) -> None:
    """The disk becomes read-only after step 3, and later can be written again."""
    out = Path(folder) / "run"
    try:
        space = Tmpfs(Path(folder))
        space.has(1000)
    except OSError as error:
        return pipe.send((None, f"no file system of its own is permitted here: {error}"))
    told = None
    try:
        for progress in steps(out):
            if progress.step == 3:
                space.has(1000, read_only=True)
    except Problem as problem:
        told = str(problem)
    space.has(1000)
    for _ in steps(out):
        pass
    pipe.send((told, left(out)))
