"""What is examined: a run, a recipe or data, as far as there is something of it to look at.

A run's system is read from its bundle; its weights, as they are and averaged, from its checkpoints; its data is opened
as its settings say. A recipe is built and not trained. All measuring is done with random numbers that are the same at
each call, so that two measurements differ by what is measured alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.base import Source, open_source, parse_spec
from ..data.batches import Batches
from ..errors import Problem
from ..systems.base import Batch, System, evaluating
from ..training import checkpoint
from ..training.settings import Settings
from .table import Table, table

ROWS, CHUNK = 192, 16  # pictures that a system is measured with, and how many at once
WHOLE, TIMES = 256, 4  # of CLIP, whose loss is a step's: at most so many at once, at least so many times
OPTIONS = ("size", "batch", "slots", "seed", "drop", "flip", "crop", "background", "prompts", "channels")


@dataclass
class Patient:
    """What the checks look at; whatever there is none of is None or empty.

    kind, name   "run", "recipe" or "data", and what the user called it
    source       the rows; test: rows that should not be among them
    data         Batches as the training draws them, of pictures (not of latents)
    system       with the weights one samples with, in eval mode
    settings     of the training
    checkpoints  folders, newest first; lines: what metrics.jsonl holds
    look         how many rows of data are looked at
    remarks      what could not be had, and why
    """

    kind: str
    name: str
    source: Source | None = None
    test: Source | None = None
    data: Any = None
    system: System | None = None
    settings: Settings | None = None
    checkpoints: Sequence[Path] = ()
    lines: Sequence[dict] = ()
    look: int = 4000
    remarks: list[str] = field(default_factory=list)
    tried: dict[float, Any] = field(default_factory=dict)  # what probe.py has done, by its factor

    # What was trained -----------------------------------------------------------------------------------------------

    @property
    def trained(self) -> bool:
        """Whether the system's weights are of a training."""
        return self.kind == "run" and self.system is not None

    @cached_property
    def files(self) -> dict[str, dict[str, Tensor]]:
        """The newest whole checkpoint's {"weights", "ema", "optimizer": {name: tensor}}."""
        return self._whole[0] if self._whole else {}

    @cached_property
    def before(self) -> dict[str, dict[str, Tensor]]:
        """The one before it."""
        return self._whole[1] if len(self._whole) > 1 else {}

    @cached_property
    def _whole(self) -> list[dict]:
        found = []
        for path in self.checkpoints:
            try:
                found.append(checkpoint.load(path)[0])
            except checkpoint.Damaged as damage:
                self.remarks.append(str(damage))
        return found[:2]

    @property
    def step(self) -> int:
        """The newest checkpoint's, else as many as the settings say."""
        if self.checkpoints:
            return int(self.checkpoints[0].name.rpartition("-")[2])
        return self.settings.steps if self.settings and self.trained else 0

    @cached_property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What the turns train, by name."""
        wanted = {id(p) for turn in self.system.turns.values() for p in turn}
        return {name: p for name, p in self.system.named_parameters() if id(p) in wanted}

    def twin(self, weights: dict[str, Tensor] | None = None) -> Any:
        """A copy of the system, with these weights where they are its own: for what changes it."""
        twin = copy.deepcopy(self.system)
        for name, p in twin.named_parameters():
            p.requires_grad_(name in self.parameters)
        with torch.no_grad():
            mine = twin.state_dict(keep_vars=True)
            for name, value in (weights or {}).items():
                if name in mine and mine[name].shape == value.shape:
                    mine[name].copy_(value)
        return twin

    # What it was trained on -----------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> Table:
        return table(self.source, self.look)

    @cached_property
    def drawn(self) -> list[Batch]:
        """Batches of `chunk` pictures, as the training draws them, not prepared."""
        times = max(TIMES if self.contrasts else 1, -(-ROWS // self.chunk))
        batches = (self.data.at(step, slot) for step in range(ROWS) for slot in range(self.slots))
        return _chunks(batches, times * self.chunk, self.chunk)

    @property
    def slots(self) -> int:
        return getattr(self.data, "slots", 1)

    @property
    def contrasts(self) -> bool:
        """Whether the loss tells each picture from all others of a step, as CLIP's: the fewer there are, the lower."""
        return hasattr(self.system, "embed_image") and hasattr(self.system, "embed_text")

    @property
    def chunk(self) -> int:
        """How many pictures are measured at once: CHUNK; where they are told from each other a step's, up to WHOLE."""
        step = getattr(self.data, "batch", CHUNK) * self.slots
        return min(step, WHOLE) if self.contrasts else CHUNK

    @cached_property
    @torch.no_grad()
    def prepared(self) -> list[Batch]:
        """The same as the system's loss takes them."""
        return [prepared(self.system, batch, k) for k, batch in enumerate(self.drawn)]

    def steps(self, first: int, n: int) -> Iterator[list[Batch]]:
        """n whole steps of the training, from number `first` on: the batches of their slots, prepared."""
        for step in range(first, first + n):
            yield [prepared(self.system, self.data.at(step, slot), step) for slot in range(self.slots)]

    @property
    def told(self) -> bool:
        """Whether the system is told words or classes by this data."""
        prompts = "none" if self.data is None else getattr(self.data, "prompts", "caption")
        return (
            self.system is not None and prompts != "none" and any(p is not None for b in self.drawn for p in b.prompts)
        )


# Measuring ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def losses(system: System, batches: Sequence[Batch], turn: str | None = None) -> Tensor:
    """The loss of each prepared batch, (N,) float64: in eval mode, t and noise being functions of its place alone."""
    turn = turn or list(system.turns)[-1]
    with torch.random.fork_rng(devices=[]), evaluating(system):
        found = []
        for k, batch in enumerate(batches):
            torch.manual_seed(1000 + k)
            found.append(system.loss(batch, turn).total.double())
    return torch.stack(found)


@torch.no_grad()
def prepared(system: System, batch: Batch, number: int = 0) -> Batch:
    if batch.prepared:
        return batch
    with torch.random.fork_rng(devices=[]), evaluating(system):
        torch.manual_seed(number)
        batch = system.prepare(batch.to(system.device))
    batch.image = batch.image.float()
    return batch


def surely(differences: Tensor) -> float:
    """The mean of paired differences in its own standard errors; 0 where all are 0."""
    error = differences.std() / len(differences) ** 0.5
    return float(differences.mean() / error) if error > 0 else float(differences.mean().sign() * 1e9)


def _chunks(batches: Iterator[Batch], rows: int, size: int) -> list[Batch]:
    """The first `rows` pictures, in batches of `size`."""
    drawn: list[Batch] = []
    while sum(len(b.image) for b in drawn) < rows:
        drawn.append(next(batches))
    images, index = torch.cat([b.image for b in drawn]), torch.cat([b.index for b in drawn])
    prompts = [p for b in drawn for p in b.prompts]
    weights = None if drawn[0].weight is None else torch.cat([b.weight for b in drawn])
    return [
        Batch(images[k], prompts[k], index[k], None if weights is None else weights[k], drawn[0].prepared)
        for k in (slice(i, min(i + size, rows)) for i in range(0, rows, size))
    ]


# Where they come from -----------------------------------------------------------------------------------------------


def of_data(spec: str, test: str | None = None, look: int = 4000) -> Patient:
    """The data of a spec, drawn as pictures without a system. Raises Problem where it cannot be opened."""
    source = open_source(spec)
    side = min(64, *_size(source))
    data = Batches(
        source, size=side, batch=32, prompts="none" if "caption" in getattr(source, "lacks", {}) else "caption"
    )
    return Patient("data", spec, source, tests_of(spec, test), data, look=look)


def of_plan(name: str, plan: Any, spec: str | None = None, test: str | None = None, look: int = 4000) -> Patient:
    """A recipe's plan: a system with first weights, its data, of this spec, and settings."""
    known = vars(plan.data)
    source = known.get("source")
    data = plan.data if source is None else Batches(source, **{k: known[k] for k in OPTIONS})
    return Patient(
        "recipe", name, source, tests_of(spec, test), data, plan.system.eval(), Settings.of(plan.settings), look=look
    )


def of_run(
    folder: str | Path,
    data: str | None = None,
    test: str | None = None,
    look: int = 4000,
    build: Callable[[dict], System | None] | None = None,
) -> Patient:
    """A run's folder: its bundle, checkpoints, settings, log and data. Raises Problem where it holds none of a run.

    data   the spec of its data, where that is no longer where settings.json says
    build  settings.json -> the system with any weights, for a run that has no bundle yet
    """
    from ..weights import bundle

    folder = Path(folder)
    checkpoints = checkpoint.found(folder / "checkpoints")
    finished = (folder / "model.safetensors").is_file()
    if not finished and not checkpoints:
        raise Problem(f"{folder} holds neither a checkpoint nor model.safetensors: a run's folder was expected")
    record = _json(folder / "settings.json")
    patient = Patient("run", str(folder), checkpoints=checkpoints, look=look)
    patient.lines = _lines(folder / "metrics.jsonl")
    if "training" in record:
        known = {f.name for f in fields(Settings)}
        patient.settings = Settings(**{k: v for k, v in record["training"].items() if k in known})
    if finished:
        patient.system = bundle.load(folder / "model.safetensors")
    else:
        patient.system = _again(patient, build(record) if build else None)
    _open(patient, record, data, test)
    return patient


def _again(patient: Patient, system: System | None) -> System | None:
    """The system of an unfinished run, with the weights of its newest checkpoint; None where it is of another shape."""
    weights = {**patient.files.get("weights", {}), **patient.files.get("ema", {})}
    mine = {} if system is None else system.state_dict(keep_vars=True)
    if not weights or any(name not in mine or mine[name].shape != t.shape for name, t in weights.items()):
        patient.remarks.append("the run has no model.safetensors yet: only its checkpoints and data are looked at")
        return None
    with torch.no_grad():
        for name, value in weights.items():
            mine[name].copy_(value)
    return system.eval()


def _open(patient: Patient, record: dict, data: str | None, test: str | None) -> None:
    """The run's data, as its settings say."""
    told, why = record.get("data", {}), "settings.json names no data"
    for spec in [data] if data else [told.get("source"), record.get("recipe", {}).get("data")]:
        try:
            if not spec:
                continue
            what, options, _ = parse_spec(spec)
            counted = what == "scenes" and "n" not in options and "rows" in told
            spec += f"{',' if ':' in spec else ':'}n={told['rows']}" if counted else ""
            patient.source = open_source(spec)
            patient.test = tests_of(spec, test)
            options = {k: told[k] for k in OPTIONS if k in told}
            patient.data = Batches(patient.source, **_sized(options, patient.source))
            return
        except Problem as problem:
            why = str(problem)
            if data:
                raise
    patient.remarks.append(f"the run's data was not found, so nothing was measured with it ({why}); say --data SPEC")


def _sized(options: dict, source: Source) -> dict:
    defaults = {"size": min(64, *_size(source)), "batch": CHUNK}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in (defaults | options).items()}


SPLITS = ("test", "val", "valid", "validation", "unseen")


def tests_of(spec: str | None, test: str | None = None) -> Source | None:
    """The rows held back from training: of the spec `test`, else the other split that the data has, or None."""
    if test:
        return open_source(test)
    if not spec:
        return None
    what, options, filters = parse_spec(spec)
    named = Path(what).name == "train"  # photos/train beside photos/test
    column = any(f.column == "split" for f in filters)
    mine = options.pop("split", None) or next((f.value for f in filters if f.column == "split"), "train")
    terms = [f"{k}={v}" for k, v in options.items()] + [str(f) for f in filters if f.column != "split"]
    for split in SPLITS if mine == "train" else ():
        if named and not Path(what).with_name(split).exists():
            continue
        other = str(Path(what).with_name(split)) if named else what
        told = terms + ([] if named else [f"split{'==' if column else '='}{split}"])
        try:
            found = open_source(other + (":" + ",".join(told) if told else ""))
        except Problem:  # it has no such split
            continue
        if len(found):
            return found
    return None


def _size(source: Source) -> tuple[int, int]:
    from ..data.batches import size_of

    for row in range(min(100, len(source))):
        try:
            return size_of(source, row)
        except Problem:
            continue
    raise Problem(f"{source.name}: none of its first pictures can be read")


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _lines(file: Path) -> list[dict]:
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    return [line for line in lines if "step" in line]
