"""Gradient accumulation: a step cut into slots has the loss and the gradient of the step in one piece."""

from contextlib import contextmanager

import pytest
import torch
from killing import Rows, made, taken
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import Data, Toy, run

from phosphene.data.batches import Batches
from phosphene.data.scenes import Scenes
from phosphene.errors import Problem
from phosphene.systems.clip import ClipSystem
from phosphene.training import loop
from systems.small import SYSTEMS

ONCE = {"steps": 1, "lr": 1e-12, "warmup": 0, "clip": 0, "ema": 0, "precision": "fp32"}  # its gradients stay


class Cut(Rows):
    """The eight pictures in their order, as one slot or as several."""

    def at(self, step: int, slot: int):
        return taken(self.pictures, list(range(slot * self.batch, (slot + 1) * self.batch)))


class SlotsDraws(TorchDispatchMode):
    """Gives one slot of all pictures what its parts would draw as slots of their own: each has its own generator."""

    def __init__(self, slots: int, pictures: int) -> None:
        super().__init__()
        self.slots, self.pictures = slots, pictures

    def seed(self, number: int, step: int, _: int, turn: str) -> None:
        """In the place of the trainer's."""
        self.states = []
        for slot in range(self.slots):
            SEED(number, step, slot, turn)
            self.states.append(torch.get_rng_state())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or "attention" in func.__name__:
            return func(*args, **kwargs)  # the fused attention could drop something, and does not
        # what is drawn like, or its shape
        at = next(i for i, a in enumerate(args) if isinstance(a, (Tensor, list, tuple)))
        what, share = args[at], self.pictures // self.slots
        shape = list(what.shape if isinstance(what, Tensor) else what)
        assert shape[0] == self.pictures, f"{func} draws {shape}, which is not one thing a picture"
        parts = what.split(share) if isinstance(what, Tensor) else [[share, *shape[1:]]] * self.slots
        drawn = []
        for slot, part in enumerate(parts):
            torch.set_rng_state(self.states[slot])
            drawn.append(func(*args[:at], part, *args[at + 1 :], **kwargs))
            self.states[slot] = torch.get_rng_state()
        return what if func.__name__.split(".")[0].endswith("_") else torch.cat(drawn)


SEED = loop.seed


@contextmanager
def drawing(monkeypatch, slots: int, pictures: int):
    draws = SlotsDraws(slots, pictures)
    with monkeypatch.context() as patch, draws:
        patch.setattr(loop, "seed", draws.seed)
        yield


def gradient(system, data) -> tuple[float, Tensor]:
    """Of a first step: the loss, and the gradients of all turns as one row."""
    (progress,) = run(system, data, **ONCE)
    grads = [p.grad.flatten() for ps in system.turns.values() for p in ps if p.grad is not None]
    return progress.loss, torch.cat(grads).clone()


def far(a: Tensor, b: Tensor) -> float:
    """How far apart, as a share of the length."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", SYSTEMS)
def test_slots_are_one_batch(name, monkeypatch):
    """Four slots of two are one of eight, told the same noise. A system whose loss is not a mean over pictures gathers
    what it is of (System.gather), or says that it is indivisible."""
    system, pictures = made.__wrapped__(name)
    if system.indivisible:
        pytest.skip(system.indivisible)
    loss, slots = gradient(system, Cut(pictures, 4, 2))
    with drawing(monkeypatch, 4, 8):
        whole_loss, whole = gradient(system, Cut(pictures, 1, 8))
    print(f"{name}: slots differ by {far(slots, whole):.1e} of the gradient")
    assert far(slots, whole) < 1e-5
    assert loss == pytest.approx(whole_loss, rel=1e-5)


class Forgetful(ClipSystem):
    """A CLIP whose towers draw, and one that looks whether it was told what it now sees."""

    def embed_image(self, pictures):
        return nn.functional.normalize(nn.functional.dropout(super().embed_image(pictures), 0.3, self.training), dim=-1)

    def embed_text(self, prompts):
        return nn.functional.normalize(nn.functional.dropout(super().embed_text(prompts), 0.3, self.training), dim=-1)

    def loss(self, batch, turn="model"):
        if batch.slots:
            state = torch.get_rng_state()
            for now, told in zip(self.gather(batch), batch.slots.given[batch.slots.index], strict=True):
                assert torch.equal(now == 0, told == 0)  # the same dropout; without a gradient kernels round otherwise
                torch.testing.assert_close(now, told)
            torch.set_rng_state(state)
        return super().loss(batch, turn)


@pytest.mark.parametrize("kind", [ClipSystem, Forgetful])
def test_clip_of_64_pairs(kind, monkeypatch):
    """1 × 64, 4 × 16 and 16 × 4: all 64 pictures are told from all 64 texts; dropout is the same in both passes."""
    found = {}
    for slots in (1, 4, 16):
        system = made.__wrapped__("clip")[0]
        system.__class__ = kind
        data = Batches(Scenes(n=500), size=32, batch=64 // slots, slots=slots)
        found[slots] = gradient(system, data)
        if slots == 4:
            with drawing(monkeypatch, 4, 64):
                whole = gradient(system, Batches(Scenes(n=500), size=32, batch=64))
            assert far(found[4][1], whole[1]) < 1e-5 and found[4][0] == pytest.approx(whole[0], rel=1e-5)
    if kind is ClipSystem:
        assert far(found[4][1], found[1][1]) < 1e-5 and far(found[16][1], found[1][1]) < 1e-5
        assert found[4][0] == pytest.approx(found[1][0], rel=1e-5) and found[4][0] > 3  # near log 64, not log 16


def test_the_temperature_is_pulled_once():
    system, pictures = made.__wrapped__("clip")
    gradient(system, Cut(pictures, 4, 2))
    slots = system.log_scale.grad.clone()
    gradient(system, Cut(pictures, 1, 8))
    torch.testing.assert_close(slots, system.log_scale.grad, rtol=1e-5, atol=1e-7)


def test_gathering_counts_nothing():
    """What a forward pass writes into buffers is written by the loss alone."""

    class Counts(Toy):
        def gather(self, batch, turn="model"):
            self.seen += 1000
            return (torch.ones(1),)

    system = Counts()
    run(system, Data(slots=2, batch=4), steps=3)
    assert system.seen == 3 * 2 * 4


def test_what_cannot_be_cut_is_refused():
    class Whole(Toy):
        indivisible = "its loss compares the batch's pictures with each other"

    with pytest.raises(Problem, match=r"2 slots: its loss compares .*; train it with slots=1, in one process"):
        run(Whole(), Data(slots=2), steps=1)
    assert len(run(Whole(), Data(slots=1), steps=1)) == 1
