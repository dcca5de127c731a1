"""All that a request puts on, and the LoRAs that its prompts name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..errors import Problem, unknown
from ..weights import lora
from ..weights.low_rank import FOLDER_NAMES, called
from .guiding import guide
from .low_rank import apply
from .replaced import replace_autoencoder, teach
from .worn import Worn, worn

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin", ".pth")


def dress(
    system: nn.Module,
    loras: Iterable[str | Path] = (),
    embeddings: Iterable[str | Path] = (),
    vae: str | Path | None = None,
    guides: Iterable[str | Path] = (),
) -> list[Worn]:
    """Puts on everything that was asked for, or nothing and a Problem.

    loras, guides  FILE or FILE:strength; a folder of many LoRAs is only a place where `find` looks
    Whoever prepares the system for sampling does it before; an autoencoder is put on device alone here.
    """
    on: list[Worn] = []
    try:
        if vae is not None:
            on.append(replace_autoencoder(system, vae))
        for file in embeddings:
            on.append(teach(system, file))
        for file, strength in map(spec, loras):
            if not _shelf(file):
                on.append(apply(system, file, strength))
        for file, strength in map(spec, guides):
            on.append(guide(system, file, strength))
    except BaseException:
        for each in reversed(on):
            each.remove()
        raise
    return on


@contextmanager
def wearing(system: nn.Module, tags: Sequence[tuple[str, float]], places: Iterable[str | Path]) -> Iterator[list[Worn]]:
    """For as long as the `with` statement lasts: the LoRAs that prompts ask for as <lora:name:weight>.

    tags    (name, weight); weights of one that is named twice are added up
    places  where `find` looks
    One that is on already has the tag's weight; a new one stays on afterwards, at 0, so that it is read once.
    """
    wanted: dict[Path, float] = {}
    for name, weight in tags:
        path = find(name, places).resolve()
        wanted[path] = wanted.get(path, 0.0) + weight
    on = {w.path.resolve(): w for w in worn(system) if w.kind == "lora" and w.path}
    used = [on.get(path) or apply(system, path, 0.0) for path in wanted]
    before = [each.strength for each in used]
    try:
        for each, weight in zip(used, wanted.values()):
            each.strength = weight
        yield used
    finally:
        for each, strength in zip(used, before):
            each.strength = strength


def find(name: str, places: Iterable[str | Path]) -> Path:
    """The LoRA of this name: a file's stem, or its path in one of the folders, in whatever case.

    places  files and folders, a strength behind a file's name is left out. Raises Problem where there is none.
    """
    known: dict[str, Path] = {}
    for place in (spec(p)[0] for p in places):
        if not _shelf(place):
            known.setdefault(called(lora.file(place)), lora.file(place))
            continue
        for file in sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES):
            known.setdefault(called(file), file)
            known.setdefault(file.relative_to(place).with_suffix("").as_posix(), file)
    for its, file in known.items():
        if its.lower() == name.lower():
            return file
    if not known:
        raise Problem(f"<lora:{name}>: no LoRA is known: say where they are, --lora FOLDER or --lora FILE")
    raise unknown("LoRA", name, known)


def spec(text: str | Path) -> tuple[Path, float]:
    """ "FILE" or "FILE:strength" → both; 1 where no strength is said."""
    file, _, strength = str(text).rpartition(":")
    try:
        return (Path(file), float(strength)) if file else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def _shelf(path: Path) -> bool:
    """Whether a folder holds LoRAs, and is not one."""
    return path.is_dir() and not any((path / f"{name}{s}").is_file() for name in FOLDER_NAMES for s in SUFFIXES)
