"""What a picture costs: parameters, floating-point operations, seconds, memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import Problem
from ..runtime import parameters


class Cost(NamedTuple):
    """parameters  of the whole system, decoder and text encoder included
    flops       a picture: of matrix products, convolutions and attention, a multiplication and an addition being two
    seconds     a picture, of a batch of all prompts, the second time it is made
    peak        bytes above what the process held before the model was loaded, at their highest; None where unknown.
                True of a fresh process only (`cost_apart`): what was freed before is taken again, and not seen
    """

    parameters: int
    flops: int
    seconds: float
    peak: int | None


class Peak:
    """The highest use of memory since it was made, in bytes: of CUDA's allocator, else of a Linux process."""

    def __init__(self, device: str = "cpu"):
        self.cuda = str(device).startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before: int | None = torch.cuda.memory_allocated()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
            self.before = _status("VmRSS")
        except OSError:
            self.before = None

    def __call__(self) -> int | None:
        if self.before is None:
            return None
        return (torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")) - self.before


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def flops(system: Any, prompt: Any, **options: Any) -> int:
    """Of one picture, the decoder and the text encoder included. The system must be as it was loaded, not packed."""
    with FlopCounterMode(display=False) as counter:
        _make(system, [prompt], [0], **options)
    return counter.get_total_flops()


def seconds(system: Any, prompts: Sequence[Any], **options: Any) -> float:
    """A picture, of a batch of all prompts: the second run, so that nothing is set up in it."""
    for _ in range(2):
        begun = time.perf_counter()
        _make(system, prompts, range(len(prompts)), **options)
    return (time.perf_counter() - begun) / len(prompts)


def cost(path: str, prompts: Sequence[Any], *, device: str = "auto", precision: str = "auto", **options: Any) -> Cost:
    """Loads a model and measures what its pictures cost; options are `generate`'s, None is the model's own."""
    from ..runtime import PRECISIONS, choose_device, prepare_for_sampling
    from ..weights.load import load

    options = {name: value for name, value in options.items() if value is not None}
    peak = Peak(choose_device(device).type)
    system = prepare_for_sampling(load(path, PRECISIONS.get(precision)), device, precision)
    took, most = seconds(system, prompts, **options), peak()
    plain = load(path)
    return Cost(parameters(plain), flops(plain, prompts[0], **options), took, most)


def cost_apart(path: str, prompts: Sequence[Any], **options: Any) -> Cost:
    """`cost`, in a process of its own. Raises Problem where that fails."""
    told = json.dumps({"path": str(path), "prompts": list(prompts), **options})
    run = subprocess.run([sys.executable, "-m", __name__, told], capture_output=True, text=True)
    if run.returncode:
        raise Problem(f"the cost of {path} could not be measured: {(run.stderr.strip() or '?').splitlines()[-1]}")
    return Cost(*json.loads(run.stdout.splitlines()[-1]))


def _make(system: Any, prompts: Sequence[Any], seeds: Sequence[int], **options: Any) -> None:
    for preview in system.generate(list(prompts), seeds=list(seeds), **options):
        last = preview
    last.picture()


if __name__ == "__main__":
    print(json.dumps(cost(**json.loads(sys.argv[1]))))
