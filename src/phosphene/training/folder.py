"""The run folder: what a training leaves on the disk besides its checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from phosphene.errors import Problem
from phosphene.training import band, checkpoint, plot
from phosphene.training.settings import FREE, Settings

TENSORBOARD = "TensorBoard's events are not written; for them: pip install 'phosphene[train]'"


class Folder:
    """RUN/: settings.json, metrics.jsonl, checkpoints/, samples/, loss.png, events.*, model.safetensors."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.board = None

    def claim(self, record: dict, resume: bool) -> None:
        """Makes the folder this run's.

        record: what the run is a function of, with the parts that may change. Problem where the folder cannot be
        written, where it holds a run and `resume` is not said, or where that run's record differs: names the entry.
        """
        file = self.path / "settings.json"
        begun = bool(checkpoint.found(self.checkpoints))  # else there is nothing to lose
        if not resume and (begun or (self.path / "model.safetensors").exists()):
            raise Problem(f"{self.path} holds a run already; resume it (--resume, resume=True) or name another folder")
        if resume and begun:
            try:
                before = json.loads(file.read_text())
            except (OSError, ValueError):
                raise Problem(f"{file} is missing or not JSON; restore it, or train anew in another folder") from None
            _compare(before, record, self.path)
        with checkpoint.writing(file):
            self.path.mkdir(parents=True, exist_ok=True)
        checkpoint.write(file, json.dumps(record, indent=1).encode())

    def begin(self, step: int, tensorboard: bool) -> list[str]:
        """Opens the logs to go on after `step`: what stands in them of later steps is dropped. Returns notes."""
        lines = []
        if self.metrics.exists():
            lines = [line for line in self.metrics.read_text().splitlines() if _step(line) <= step]
        checkpoint.write(self.metrics, "".join(f"{line}\n" for line in lines).encode())
        if not tensorboard:
            return []
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return [TENSORBOARD]
        with checkpoint.writing(self.path):
            self.board = SummaryWriter(str(self.path), purge_step=step + 1)
        return []

    def log(self, row: dict) -> None:
        """One line of numbers: {"step": …, "loss": …, …}."""
        with checkpoint.writing(self.metrics):
            with open(self.metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
            if self.board:
                for name, value in row.items():
                    self.board.add_scalar(name, value, row["step"])
                self.board.flush()  # its own thread writes: here it is heard whether it could

    def sample(self, picture: Image.Image | Tensor, step: int) -> Path:
        """samples/step-N.png from what the recipe's `sample` gave: a picture, or (B, 3, H, W) in [-1, 1]."""
        path = self.path / "samples" / f"step-{step}.png"
        with checkpoint.writing(path):
            path.parent.mkdir(exist_ok=True)
            (grid(picture) if isinstance(picture, Tensor) else picture).save(path)
        return path

    def plot(self) -> None:
        """loss.png, from what metrics.jsonl holds."""
        with checkpoint.writing(self.path / "loss.png"):
            picture = plot.losses(self.rows(), band.edges_of(self.path, self.rows()))
            if picture is not None:
                picture.save(self.path / "loss.png")

    def rows(self) -> list[dict]:
        """What metrics.jsonl holds."""
        return [json.loads(line) for line in self.metrics.read_text().splitlines() if math.isfinite(_step(line))]

    def close(self) -> None:
        if self.board:
            with contextlib.suppress(OSError):  # a full disk has been told by then
                self.board.close()
            self.board = None


def grid(pictures: Tensor, columns: int | None = None, gap: int = 2) -> Image.Image:
    """(B, 3, H, W) in [-1, 1] as one sheet, about square unless `columns` are given."""
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    n, _, h, w = pictures.shape
    columns = columns or max(1, round((n * h / w) ** 0.5))
    rows = -(-n // columns)
    sheet = Image.new("RGB", (columns * (w + gap) - gap, rows * (h + gap) - gap), "white")
    pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * (w + gap), i // columns * (h + gap)))
    return sheet


def record(settings: Settings, precision: str, system: nn.Module, trained: dict[str, nn.Parameter]) -> dict:
    """What a run is a function of, apart from recipe and data, as settings.json keeps it."""
    frozen: dict[str, hashlib._Hash] = {}
    for name, p in system.named_parameters():
        if name not in trained:
            frozen.setdefault(name.split(".")[0], hashlib.sha256()).update(_bytes(p))
    shapes = {name: list(p.shape) for name, p in trained.items()}
    return {
        "training": settings.plain() | {"precision": precision},
        "frozen": {name: digest.hexdigest() for name, digest in frozen.items()},
        "system": {"kind": type(system).__name__, "shapes": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()},
        "torch": torch.__version__,
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _compare(before: dict, now: dict, path: Path) -> None:
    """Problem naming the first entry that differs, apart from those that do not change the weights."""
    free = set(FREE)
    if before.get("training", {}).get("decay") == 0:
        free.add("steps")  # with a rate that stays, a longer run begins as the shorter one did
    for group, values in json.loads(json.dumps(now)).items():
        old = before.get(group)
        if not isinstance(values, dict):
            continue
        for name in {**values, **(old if isinstance(old, dict) else {})}:
            was, now_ = (d.get(name) if isinstance(d, dict) else None for d in (old, values))
            if was != now_ and not (group == "training" and name in free):
                raise Problem(
                    f"{path} was begun with {_said(group, name, was)}, not {now_!r}; resume with the same, "
                    f"or begin another run from its weights (start={str(path)!r})"
                )


def _said(group: str, name: str, value: object) -> str:
    if group == "frozen":
        return f"other weights in its frozen part {name!r} (SHA-256 {value})"
    if group == "system":
        return f"another system ({name} {value!r})"
    return f"{name} = {value!r}"


def _step(line: str) -> float:
    """The step of a line of metrics.jsonl; a line cut short by a kill counts as never."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
