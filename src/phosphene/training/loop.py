"""The training loop: a generator of Progress that knows only the System contract.

A step is an update for every turn of the system. Its batch is a fixed number of slots; the gradient is the mean over
them. Before a slot is prepared and before each turn works on it, torch's generators are seeded from
(run seed, step, slot, turn): t, noise, dropout and the autoencoder's draw are functions of these alone, so that
a resumed run is the same run bit for bit, and one process with two slots equals two with one, to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.errors import Problem
from phosphene.systems.base import Batch, Loss, Slots, System, evaluating
from phosphene.training import checkpoint
from phosphene.training.ema import Ema, attach, ema_weights
from phosphene.training.folder import Folder, record
from phosphene.training.progress import Log, Progress
from phosphene.training.settings import Settings, resolve
from phosphene.training.team import Team
from phosphene.training.turn import Turn


def train(
    system: System,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    sample: Callable[[System], Any] | None = None,
    score: Callable[[System], dict[str, float]] | None = None,
    card: str | None = None,
    save: Callable[..., Any] | None = None,
    knobs: dict | None = None,
    recipe: str | None = None,
    **settings: Any,
) -> Iterator[Progress]:
    """Trains `system` on `data`; the caller's `for` loop shows, logs and stops.

    data      `Batches`, or anything with slots, .stream(start, workers, slots) -> (step, [Batch a slot])
    out       the run's folder; None writes nothing
    resume    go on from the newest whole checkpoint in `out`, with the same settings
    start     begin from the (averaged) weights of another run's folder or checkpoint
    sample    system -> PIL picture or (B, 3, H, W) in [-1, 1], each `sample_every` steps, with the averaged weights
    score     system -> {name: number}, each `score_every` steps and at the end, with the averaged weights
    card      the model card for the bundle
    save      (system, path, card=…) writes the bundle; None: `weights.bundle.save`
    knobs     the recipe's own arguments: kept in settings.json and compared on resume; recipe: its name, kept there
    settings  the fields of `Settings`: steps=, lr=, warmup=, decay=, floor=, betas=, clip=, ema=, precision=, seed=, …

    At the end the system holds the averaged weights; within the run `ema_weights(system)` shows them. A caller that
    leaves the loop early has the weights as they are, and a checkpoint of them in `out`.
    Raises Problem: a setting that cannot be; a folder that cannot be written, holds another run, or whose checkpoints
    are all damaged; a loss or gradient that is not finite (says the step and what to try).
    """
    run = _Run(system, data, Settings.of(settings), start, sample, score)
    if out is not None:
        run.folder = Folder(out)
        if run.team.leads:
            run.folder.claim(run.record(knobs or {}) | {"name": recipe}, resume)
    return run.steps(resume, lambda path: (save or _bundle)(system, path, card=card))


class _Run:
    """A run: its state, its loop, what it writes."""

    def __init__(self, system: System, data: Any, settings: Settings, start, sample, score) -> None:
        self.system, self.data, self.settings = system, data, settings
        self.start, self.sample, self.score = start, sample, score
        self.folder: Folder | None = None
        self.team = Team(system.device)
        self.slots = self.team.slots(data.slots)
        if data.slots > 1 and system.indivisible:
            raise Problem(f"{data.slots} slots: {system.indivisible}; train it with slots=1, in one process")
        self.precision = resolve(settings.precision, self.team.device)
        names = {p: name for name, p in system.named_parameters()}
        turns = {turn: {names[p]: p for p in parameters} for turn, parameters in system.turns.items()}
        self.parameters = {turn: parameters for turn, parameters in turns.items() if parameters}
        self.trained = {name: p for parameters in self.parameters.values() for name, p in parameters.items()}
        if not self.trained:
            raise Problem("nothing to train: every parameter of the system is frozen")
        for name, p in self.trained.items():
            if p.dtype != torch.float32:
                raise Problem(f"{name} is {p.dtype}; trained weights are float32 (precision='bf16' computes in bf16)")
        for turn in self.parameters:
            settings.rate(0, turn)
        self.step, self.images, self.seconds, self.saved = 0, 0, 0.0, None
        self.told = 1  # rows that cannot be read until that is said
        self.signal = torch.zeros(())  # the last step's loss and gradient: finite, or something is wrong

    def record(self, knobs: dict) -> dict:
        """What the run is a function of."""
        start = None if self.start is None else str(self.start)
        more = {"recipe": {**knobs, "start": start}, "data": _described(self.data)}
        return record(self.settings, self.precision, self.system, self.trained) | more

    # The loop ---------------------------------------------------------------------------------------------------

    def steps(self, resume: bool, bundle: Callable[[Path], Any]) -> Iterator[Progress]:
        try:
            notes = self.begin(resume)
            log = Log(self.team, self.images, self.seconds)
            for step, batches in self.drawn():
                if step >= self.settings.steps:
                    break
                notes += self.broken()
                log.step(self.update(batches, log) * self.team.world)
                self.step = step + 1
                now = self.report(log)
                if self.step == self.settings.steps:
                    self.end(bundle)
                yield replace(now, notes=tuple(notes))
                notes = []
            if not log.updates:  # resumed at its end
                self.end(bundle)
                yield replace(self.report(log), notes=tuple(notes))
        except GeneratorExit:  # the caller has seen enough; nothing is lost
            if self.sound():
                self.save()
            raise
        finally:
            self.leave()

    def begin(self, resume: bool) -> list[str]:
        """Everything in its place for update number self.step + 1. Returns notes."""
        self.system.to(self.team.device).train()
        resume = resume and self.folder is not None
        if self.start is not None and not (resume and checkpoint.found(self.folder.checkpoints)):
            self.load(checkpoint.read_weights(self.start), str(self.start))
        if self.settings.compile:
            for block in _blocks(self.system):
                block.compile()
        self.model = self.team.wrap(self.system)  # every process now has the first one's weights
        self.turns = [Turn(name, parameters, self.settings) for name, parameters in self.parameters.items()]
        self.optimizers = [self.team.wrap_optimizer(turn.optimizer) for turn in self.turns]
        self.ema = Ema(self.trained, self.settings.ema) if self.settings.ema else None
        attach(self.system, self.ema)
        notes = self.restore() if resume else []
        if self.folder and self.team.leads:
            notes += self.folder.begin(self.step, self.settings.tensorboard)
        return notes

    def drawn(self) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its batches); where the data gives out, a checkpoint of the weights so far is written first."""
        try:
            yield from self.data.stream(self.step, workers=self.settings.workers, slots=self.slots)
        except Exception:
            if self.sound():
                self.save()
            raise

    def broken(self) -> list[str]:
        """A note when a row is found that cannot be read, and again whenever there are twice as many."""
        broken: dict = getattr(self.data, "broken", {})
        if len(broken) < self.told:
            return []
        self.told = 2 * len(broken)
        latest = next(reversed(broken.values()))
        return [f"Broken rows met so far: {len(broken)}; others take their places. The latest: {latest}"]

    def update(self, batches: list[Batch], log: Log) -> int:
        """One step: every turn in its order, then the average. Returns how many pictures it took."""
        batches = [self.prepared(batch, slot) for batch, slot in zip(batches, self.slots, strict=True)]
        for turn, optimizer in zip(self.turns, self.optimizers, strict=True):
            if len(self.turns) > 1:
                for name, p in self.trained.items():
                    p.requires_grad_(name in turn.parameters)
            turn.optimizer.zero_grad(set_to_none=True)
            told = self.gathered(turn.name, batches)
            losses = [self.backward(turn.name, b, slot, log) for b, slot in zip(told, self.slots, strict=True)]
            norm = turn.clip(self.settings.clip)
            log.add({f"grad_norm/{turn.name}": norm})
            self.signal = norm + torch.stack(losses).sum()
            if self.signal.device.type == "cpu":  # elsewhere it would wait for the device: looked at with the log
                self.check(before=turn is self.turns[0])
            for group in turn.optimizer.param_groups:
                group["lr"] = self.settings.rate(self.step, turn.name)
            optimizer.step()
        if self.ema:
            self.ema.update(self.step + 1)
        return sum(len(batch.image) for batch in batches)

    @torch.no_grad()
    def gathered(self, turn: str, batches: list[Batch]) -> list[Batch]:
        """The batches, each with what its loss wants to know of all slots of the step, those of other processes too."""
        if self.data.slots == 1:
            return batches
        buffers = [(buffer, buffer.clone()) for buffer in self.system.buffers()]
        given = []
        for batch, slot in zip(batches, self.slots, strict=True):
            seed(self.settings.seed, self.step, slot, turn)
            with self.autocast():
                given.append(self.system.gather(batch, turn))
        for buffer, before in buffers:  # what counts or averages does so in the loss
            buffer.copy_(before)
        if not any(given):
            return batches
        given = self.team.gather(given)
        return [replace(batch, slots=Slots(given, slot)) for batch, slot in zip(batches, self.slots, strict=True)]

    def backward(self, turn: str, batch: Batch, slot: int, log: Log) -> Tensor:
        """Adds a slot's share to the gradient; the slot's loss."""
        seed(self.settings.seed, self.step, slot, turn)
        with self.team.quiet(self.model, last=slot == self.slots[-1]):
            with self.autocast():
                loss: Loss = self.model(batch, turn)
            (loss.total / len(self.slots)).backward()
        log.add({f"loss/{turn}": loss.total, **{f"{turn}/{name}": value for name, value in loss.parts.items()}})
        return loss.total.detach()

    @torch.no_grad()
    def prepared(self, batch: Batch, slot: int) -> Batch:
        batch = batch.to(self.team.device)
        if batch.prepared:
            return batch
        seed(self.settings.seed, self.step, slot, "prepare")
        with self.autocast():
            batch = self.system.prepare(batch)
        batch.image = batch.image.float()  # noise is drawn, and added, in float32
        return batch

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def sound(self) -> bool:
        """Whether the last loss and gradient were finite."""
        return math.isfinite(float(self.signal))

    def check(self, before: bool) -> None:
        """Problem where the last loss or gradient is not finite; `before` the update, the weights are still saved."""
        if self.sound():
            return
        if before:
            self.save()
        kept = next(iter(checkpoint.found(self.folder.checkpoints)), None) if self.folder else None
        raise Problem(
            f"the loss or its gradient is not finite at step {self.step + (1 if before else 0)}; try a lower lr, "
            "more warmup, a smaller clip or precision='fp32'" + (f". The weights before it: {kept}" if kept else "")
        )

    # What is written --------------------------------------------------------------------------------------------

    def report(self, log: Log) -> Progress:
        """The step's Progress; writes what is due."""
        s, last = self.settings, self.step == self.settings.steps
        due = {n: every > 0 and self.step % every == 0 for n, every in s.every.items()}
        scored = bool(self.score and self.team.leads and log.updates) and (due["score"] or last)
        logged = bool(log.gathered) and (due["log"] or last or scored or log.updates == 1)
        if (logged or due["checkpoint"]) and log.updates:
            self.check(before=False)
        if logged:
            log.read()
        self.images, self.seconds = log.images, log.seconds
        now = Progress(
            self.step,
            s.steps,
            lr=s.rate(max(0, self.step - 1), self.turns[0].name),
            images=self.images,
            seconds=self.seconds,
            per_second=log.per_second,
            eta=log.eta(s.steps - self.step),
            numbers=log.numbers,
            scores=self.scored(log) if scored else {},
            logged=logged,
        )
        if not (self.folder and self.team.leads and log.updates):
            return now
        if logged:
            self.folder.log(now.row())
        shown = self.show(log) if self.sample and (due["sample"] or (last and s.sample_every)) else None
        kept = self.save() if due["checkpoint"] or last else None
        return replace(now, sample=shown, checkpoint=kept)

    def show(self, log: Log) -> Path:
        """samples/step-N.png, with the averaged weights."""
        with self.looked_at(log):
            return self.folder.sample(self.sample(self.system), self.step)

    def scored(self, log: Log) -> dict[str, float]:
        """{"score/NAME": the recipe's score}, with the averaged weights."""
        with self.looked_at(log):
            return {f"score/{name}": float(value) for name, value in self.score(self.system).items()}

    @contextmanager
    def looked_at(self, log: Log) -> Iterator[None]:
        """In eval mode with the averaged weights; what is drawn and how long it takes are not the training's."""
        with log.paused(), torch.random.fork_rng(), evaluating(self.system), ema_weights(self.system), torch.no_grad():
            yield

    def save(self) -> Path | None:
        """A checkpoint of where the run stands, unless there is one."""
        if not (self.folder and self.team.leads) or self.saved == self.step or self.step == 0:
            return None
        files = {"weights": self.weights(), "optimizer": {k: v for turn in self.turns for k, v in turn.state().items()}}
        if self.ema:
            files["ema"] = self.ema.average
        position = {"images": self.images, "seconds": self.seconds}
        path = checkpoint.save(self.folder.checkpoints, self.step, files, position, self.settings.keep)
        self.saved = self.step
        self.folder.plot()
        return path

    def weights(self) -> dict[str, Tensor]:
        """What the run changes: trained parameters, and the buffers that are the system's state."""
        kept = self.system.state_dict().keys()
        return {**self.trained, **{name: b for name, b in self.system.named_buffers() if name in kept}}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Takes the weights over, strictly."""
        for name, mine in self.weights().items():
            if name not in tensors or tensors[name].shape != mine.shape:
                found = list(tensors[name].shape) if name in tensors else "nothing"
                raise Problem(f"{where} has {found} for {name}, {list(mine.shape)} here: it is of another system")
            mine.copy_(tensors[name])

    def restore(self) -> list[str]:
        """Goes to the newest whole checkpoint."""
        newest = checkpoint.newest(self.folder.checkpoints, aside=self.team.leads)
        if newest is None:
            return [f"No checkpoint in {self.folder.path} yet: from the beginning."]
        files, position, notes = newest
        if position["step"] > self.settings.steps:
            raise Problem(f"{self.folder.path} is at step {position['step']}, beyond steps={self.settings.steps}")
        self.load(files["weights"], str(self.folder.path))
        for turn in self.turns:
            turn.restore(files["optimizer"])
        if self.ema:
            self.ema.load(files["ema"])
        self.step, self.images, self.seconds = position["step"], position["images"], position["seconds"]
        self.saved = self.step
        return [*notes, f"Going on after step {self.step}."]

    def end(self, bundle: Callable[[Path], Any]) -> None:
        """The system gets its averaged weights, for good, and the bundle is written."""
        self.system.eval()
        if self.ema:
            self.ema.swap()
            attach(self.system, None)
        for p in self.trained.values():
            p.requires_grad_(True)
        if self.folder and self.team.leads:
            with checkpoint.writing(self.folder.path / "model.safetensors"):
                bundle(self.folder.path / "model.safetensors")
        self.team.wait()  # so that whoever goes on finds the bundle

    def leave(self) -> None:
        for p in self.trained.values():
            p.requires_grad_(True)
        if self.settings.compile:
            for block in _blocks(self.system):
                block._compiled_call_impl = None
        if self.folder:
            self.folder.close()


def seed(*of: int | str) -> None:
    """Seeds torch's generators, of every device, from (run seed, step, slot, turn)."""
    digest = hashlib.blake2b(" ".join(map(str, of)).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def _described(data: Any) -> dict:
    """What the batches are a function of: the plain values that `data` was made with, and its source."""
    plain = {k: v for k, v in vars(data).items() if isinstance(v, (str, int, float, tuple, type(None)))}
    plain |= {k: str(v) for k, v in vars(data).items() if is_dataclass(v)}
    source = getattr(data, "source", None)
    return plain if source is None else plain | {"source": source.name, "rows": len(source)}


def _blocks(system: nn.Module) -> list[nn.Module]:
    """The repeated blocks of every net in the system that trains."""
    nets = [m for m in system.modules() if hasattr(m, "blocks") and any(p.requires_grad for p in m.parameters())]
    return list(dict.fromkeys(block for net in nets for block in net.blocks))


def _bundle(system: System, path: Path, card: str | None) -> None:
    from phosphene.weights import bundle

    bundle.save(system, path, card=card)
