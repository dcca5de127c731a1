"""The processes of a run. One alone needs nothing; several are Hugging Face accelerate's business."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from phosphene.errors import Problem


class Team:
    """Who trains: `rank` of `world` processes, on `device`.

    Started by `accelerate launch` (or torchrun) there are several, each with its share of a step's slots, and
    accelerate wraps model and optimiser; the gradient is the same mean over all slots, to rounding.
    """

    def __init__(self, device: torch.device) -> None:
        self.accelerator = None
        self.rank, self.world, self.device = 0, 1, device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.accelerator = _accelerator()
            self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def slots(self, total: int) -> list[int]:
        """The slots of each step that are this process's."""
        if total % self.world:
            raise Problem(
                f"{total} slots cannot be shared by {self.world} processes; choose a multiple of {self.world}"
            )
        share = total // self.world
        return list(range(self.rank * share, (self.rank + 1) * share))

    def wrap(self, model: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(model) if self.accelerator else model

    def wrap_optimizer(self, optimizer: torch.optim.Optimizer):
        return self.accelerator.prepare_optimizer(optimizer) if self.accelerator else optimizer

    def quiet(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """Around a slot that is not the last: gradients are not exchanged yet."""
        return self.accelerator.no_sync(model) if self.accelerator and not last else contextlib.nullcontext()

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over processes, for the log."""
        return self.accelerator.reduce(numbers, "mean") if self.accelerator else numbers

    def gather(self, given: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """What the slots of all processes gave, in the slots' order, from what this process's gave."""
        if not self.accelerator:
            return given
        return list(zip(*(self.accelerator.gather(torch.stack(things)) for things in zip(*given))))

    def wait(self) -> None:
        """Until every process is here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()


def _accelerator():
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise Problem("training with several processes needs accelerate: pip install 'phosphene[train]'") from None
    # A batch may leave a parameter unused (no dropped prompt: no null token), and each turn leaves the others'.
    return Accelerator(
        mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
