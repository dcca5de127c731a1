"""Checkpoints: RUN/checkpoints/step-N/, all there or not there at all.

    weights.safetensors     trained parameters and buffers, as they are (not averaged)
    ema.safetensors         the average, where one is kept
    optimizer.safetensors   AdamW's state, {turn}/{parameter}/{exp_avg, exp_avg_sq, step}
    position.json           the step, the seconds so far, and every file's size and SHA-256

A checkpoint is written under another name in the same folder, brought to the disk, then renamed: a process killed at
any moment, or a full disk, leaves the ones before it whole. No random state is kept: there is none (see `loop`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from phosphene.errors import Problem

POSITION = "position.json"


class Damaged(Problem):
    """A checkpoint that is not what was written."""


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    steps = [(int(p.name[5:]), p) for p in folder.glob("step-*") if p.name[5:].isdigit()]
    return [p for _, p in sorted(steps, reverse=True)]


def save(folder: Path, step: int, files: dict[str, dict[str, Tensor]], position: dict, keep: int = 2) -> Path:
    """Writes checkpoint `step` into `folder` and removes all but the newest `keep`.

    files: {"weights": {name: tensor}, …}. Raises Problem, with everything before it untouched, where the disk is full.
    """
    path = folder / f"step-{step}"
    draft = folder / f".step-{step}.{os.getpid()}"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir()
            for name, tensors in files.items():
                file = draft / f"{name}.safetensors"
                save_file({k: v.detach().contiguous() for k, v in tensors.items()}, file)
            digests = {file.name: [file.stat().st_size, _digest(file)] for file in sorted(draft.iterdir())}
            (draft / POSITION).write_text(json.dumps({"step": step, **position, "files": digests}, indent=1))
            for file in draft.iterdir():
                sync(file)
            sync(draft)
            if path.exists():
                shutil.rmtree(path)
            draft.rename(path)
            sync(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    for old in found(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """(files, position) as given to `save`. Damaged, naming the file, where one is missing, cut short or changed.

    Problem, and not Damaged, where the disk does not give the files out: they may be whole.
    """
    try:
        position = json.loads((path / POSITION).read_text())
        files = {}
        for name, (size, digest) in position["files"].items():
            file = path / name
            if not file.is_file():
                raise Damaged(f"{file} is missing")
            if file.stat().st_size != size:
                raise Damaged(f"{file} is {file.stat().st_size} bytes long; {size} were written")
            if _digest(file) != digest:
                raise Damaged(f"{file} has changed since it was written: its SHA-256 is another")
            files[name.removesuffix(".safetensors")] = load_file(file)
        return files, position
    except Damaged:
        raise
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise Damaged(f"{path / POSITION} is missing or cannot be read") from None
    except OSError as error:
        raise Problem(f"cannot read {error.filename or path}: {error.strerror}; it is left as it is") from None


def newest(folder: Path, aside: bool = True) -> tuple[dict[str, dict[str, Tensor]], dict, list[str]] | None:
    """(files, position, notes) of the newest whole checkpoint, None where there is none.

    notes say which ones were damaged and passed over, and (`aside`) renamed; Problem where all of them are.
    """
    notes: list[str] = []
    bad = []
    for path in found(folder):
        try:
            files, position = load(path)
        except Damaged as damage:
            notes.append(str(damage))
            bad.append(path)
            continue
        if aside:
            for other in bad:
                with writing(other):
                    other.rename(other.with_name(f"{other.name}.damaged"))
        notes = [f"Damaged checkpoint, set aside: {note}." for note in notes]
        if notes:
            notes.append(f"Going on from the one before, {path}; the steps since are done again.")
        return files, position, notes
    if notes:
        raise Problem(f"no checkpoint in {folder} is whole: {'; '.join(notes)}. Train anew in another folder")
    return None


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Brings a file or a folder to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes) -> None:
    """A small file, atomically: the old one or the new one, never half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            for left in path.parent.glob(f".{path.name}.*"):  # by processes that were killed
                left.unlink(missing_ok=True)
            draft.write_bytes(content)
            sync(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into a Problem that names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problem(
            f"cannot write {path}: {reason}. Make room or choose another folder; what was there is kept"
        ) from error


def read_weights(path: str | Path, ema: bool = True) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, averaged where there is an average and `ema` is asked for.

    path: RUN, or RUN/checkpoints/step-N.
    """
    path = Path(path)
    if not (path / POSITION).exists():
        inside = found(path / "checkpoints")
        if not inside:
            raise Problem(f"{path} holds no checkpoint; give a run's folder or one of its checkpoints/step-N")
        path = inside[0]
    files, _ = load(path)
    return files["weights"] | (files.get("ema", {}) if ema else {})
