"""Is a picture the same in any batch, and what does one at a time cost? On the machine that runs it.

    python benchmarks/same.py --threads 2
    python benchmarks/same.py --model v1-5.safetensors --precision bf16 --size 512 --most 4 --steps 2

Prints, for each sampler, the largest difference in x0 (a picture spans 2) between a picture alone and the same one
among others, of other lengths too; then the seconds of so many pictures in one batch and one by one, medians, taken in
turns.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from phosphene import load
from phosphene.cli.options import call
from phosphene.runtime import prepare_for_sampling

PROMPT = "a smiling cat"
OTHERS = [
    "fox",
    "a flat crying pizza with a hat on the left of it and a tree",
    "红色的苹果, 3D",
    "(dog:1.3) AND bee",
] * 4


def same(
    *,
    model: str = "emoji",
    precision: str = "fp32",
    threads: int = 1,
    size: int | None = None,
    steps: int = 6,
    most: int = 16,
    rounds: int = 5,
):
    """Whether a picture's bits depend on its batch, and what strictness costs.

    size    a side, in pixels; if not given, the model's own
    most    pictures in the largest batch
    """
    torch.set_num_threads(threads)
    system = prepare_for_sampling(load(model), "cpu", precision)

    def made(prompts, seeds, **how):
        how |= {} if size is None else {"size": (size, size)}
        *_, last = system.generate(prompts, seeds=seeds, steps=steps, **how)
        return last.picture()

    print(f"{model}, {precision}, {threads} threads, torch {torch.__version__}")
    for sampler in ("ddim", "euler_ancestral", "dpmpp_2m_sde"):
        alone, found = made([PROMPT], [7], sampler=sampler)[0], []
        for n in sorted({1, 2, min(4, most), min(5, most), most}):
            for prompts in ([PROMPT] * (n - 1), OTHERS[: n - 1]):
                for place in {0, n - 1}:
                    beside, seeds = list(prompts), list(range(8, 8 + n - 1))
                    beside.insert(place, PROMPT), seeds.insert(place, 7)
                    found.append((made(beside, seeds, sampler=sampler)[place] - alone).abs().max().item())
        wrong = sum(d > 0 for d in found)
        said = f"{wrong} of {len(found)} differ, by at most {max(found):.1e}" if wrong else f"{len(found)}, all equal"
        print(f"{sampler:16s} batches: {said}")
    for n in sorted({1, min(4, most), most}):
        prompts, seeds = [PROMPT, *OTHERS][:n], list(range(n))
        seconds: dict[str, list[float]] = {"batch": [], "alone": []}
        for turn in range(rounds + 1):
            for kind, calls in (("batch", [slice(0, n)]), ("alone", [slice(i, i + 1) for i in range(n)])):
                start = time.perf_counter()
                for its in calls:
                    made(prompts[its], seeds[its])
                if turn:  # the first warms up
                    seconds[kind].append(time.perf_counter() - start)
        ratio = statistics.median(b / a for a, b in zip(seconds["batch"], seconds["alone"]))
        batch, alone = (statistics.median(s) for s in seconds.values())
        print(f"{n:3d} pictures: {batch:.2f} s in one batch, {alone:.2f} s one by one, {ratio:.2f} times")


if __name__ == "__main__":
    call(same, sys.argv[1:], "benchmarks/same.py")
