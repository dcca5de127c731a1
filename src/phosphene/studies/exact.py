"""The best denoiser of a finite set of pictures, in closed form: beside it one sees which errors are the network's."""

from __future__ import annotations

from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Table
from phosphene.nets.exact import Exact
from phosphene.studies.pictures import held
from phosphene.systems.ddpm import Ddpm

KNOWN = 2000  # scenes


def exact(schedule: Table, n: int | None = None, size: int = 32, **how) -> Ddpm:
    """A system that knows n training scenes of one object (None: KNOWN of them), and nothing else, by heart."""
    net = Exact(schedule)
    net.pictures.data = held(n or KNOWN, size, "train")
    return Ddpm(Denoiser(net, schedule, "x0"), size=size, **how).eval()
