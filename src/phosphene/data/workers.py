"""Work done ahead by other processes, whose results come in order and do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from phosphene.errors import Problem


def in_order(work: Callable[[Any], Any], items, workers: int) -> Iterator[tuple[Any, Any]]:
    """(item, work(item)) for every item, in order; with workers > 0, that many processes work ahead.

    A Problem raised by `work` comes up here as it is.
    """
    if workers <= 0:
        for item in items:
            yield item, work(item)
        return
    loader = torch.utils.data.DataLoader(
        _Work(work), sampler=items, batch_size=None, num_workers=workers, collate_fn=_as_is, prefetch_factor=2,
        generator=torch.Generator(),  # else the loader draws from torch's own, and the run depends on it
    )  # fmt: skip
    for item, result in loader:
        if isinstance(result, Problem):
            raise result
        yield item, result


class _Work(torch.utils.data.Dataset):
    def __init__(self, work: Callable[[Any], Any]):
        self.work = work

    def __getitem__(self, item):
        try:
            return item, self.work(item)
        except Problem as problem:
            return item, problem


def _as_is(x):
    return x
