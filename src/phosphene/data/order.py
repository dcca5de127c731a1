"""Which row stands where. A position is a number; the row at a position is a function of (seed, position) alone.

There is no shuffle buffer and no stored permutation: `shuffled` computes single values of a pseudo-random permutation.
So step 1,000,000 of a run costs what step 0 does, and a set of 10^15 rows costs what one of 10 does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
ROUNDS = 6


def mix(h: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection of uint64 whose output bits all look random."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def key(*numbers: int) -> int:
    """One 64-bit number out of several integers, in order."""
    h = 0
    for number in numbers:
        mixed = (h + GOLDEN + (number & MASK)) & MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        h = mixed ^ (mixed >> 31)
    return h


def uniform(seed: int, positions: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), one a position, (B,) float64."""
    h = mix(positions.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(seed))
    return (mix(h + np.uint64(GOLDEN)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(places: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Values of a pseudo-random permutation of 0..n−1 at `places`, (B,) int64.

    A Feistel network is a permutation of 2^(2k) ≥ n numbers. Where it leaves 0..n−1, it is applied again until it is
    back ("cycle walking", Black & Rogaway 2002), and that is a permutation of 0..n−1.
    """
    half = max(1, ((max(n - 1, 1)).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = [np.uint64(key(seed, i)) for i in range(ROUNDS)]

    def network(x: np.ndarray) -> np.ndarray:
        left, right = x >> np.uint64(half), x & low
        for k in keys:
            left, right = right, left ^ (mix(right * np.uint64(GOLDEN) + k) & low)
        return (left << np.uint64(half)) | right

    out = network(places.astype(np.uint64))
    while (outside := out >= n).any():
        out[outside] = network(out[outside])
    return out.astype(np.int64)


class Shuffled:
    """Rows 0..n−1, all of them once an epoch, in another order each epoch.

    With `shards`, the number of rows in each: shard by shard, the shards in another order each epoch, and the rows
    inside each too.
    """

    def __init__(self, n: int, seed: int, shards: Sequence[int] | None = None):
        self.n, self.seed = n, seed
        self.shards = np.asarray(() if shards is None else shards, dtype=np.int64)
        self._last: tuple[int, tuple] = (-1, ())

    def size(self, micro: int) -> None:
        """The picture size of micro-batch `micro`: whatever the caller wants."""
        return None

    def rows(self, micro: int, batch: int) -> np.ndarray:
        """The rows of micro-batch number `micro`, (batch,) int64."""
        positions = np.arange(micro * batch, (micro + 1) * batch, dtype=np.int64)
        epochs, places = positions // self.n, positions % self.n
        rows = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._within(int(epoch), places[here])
        return rows

    def another(self, micro: int, u: float) -> int:
        """The row that stands in for a broken one; u in [0, 1)."""
        return int(u * self.n)

    def _within(self, epoch: int, places: np.ndarray) -> np.ndarray:
        if len(self.shards) < 2:
            return shuffled(places, self.n, key(self.seed, 1, epoch))
        order, starts, firsts = self._shard_order(epoch)
        at = np.searchsorted(starts, places, side="right") - 1
        rows = np.empty_like(places)
        for i in np.unique(at):
            here, shard = at == i, int(order[i])
            inside = shuffled(places[here] - starts[i], int(self.shards[shard]), key(self.seed, 2, epoch, shard))
            rows[here] = firsts[shard] + inside
        return rows

    def _shard_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shards in this epoch's order, less the empty; where each begins in the epoch; the first row of each shard."""
        if self._last[0] == epoch:
            return self._last[1]
        order = shuffled(np.arange(len(self.shards)), len(self.shards), key(self.seed, 3, epoch))
        order = order[self.shards[order] > 0]
        starts = np.concatenate([[0], np.cumsum(self.shards[order])[:-1]])
        self._last = epoch, (order, starts, np.concatenate([[0], np.cumsum(self.shards)[:-1]]))
        return self._last[1]


class Bucketed:
    """Rows grouped by picture size: every micro-batch has one size, and every row stands in every epoch at least once.

    members  {(height, width): rows}; the last micro-batch of a bucket is filled up with rows of the same bucket.
    """

    def __init__(self, members: dict[tuple[int, int], np.ndarray], seed: int, batch: int):
        self.sizes = sorted(members)
        self.members = [np.asarray(members[s]) for s in self.sizes]
        self.seed, self.batch = seed, batch
        self.ends = np.cumsum([-(-len(m) // batch) for m in self.members])

    def _bucket(self, micro: int) -> tuple[int, int, int]:
        """(epoch, bucket, which micro-batch of that bucket)"""
        total = int(self.ends[-1])
        epoch, place = divmod(micro, total)
        j = int(shuffled(np.array([place]), total, key(self.seed, 4, epoch))[0])
        bucket = int(np.searchsorted(self.ends, j, side="right"))
        return epoch, bucket, j - (int(self.ends[bucket - 1]) if bucket else 0)

    def size(self, micro: int) -> tuple[int, int]:
        return self.sizes[self._bucket(micro)[1]]

    def rows(self, micro: int, batch: int) -> np.ndarray:
        epoch, bucket, j = self._bucket(micro)
        n = len(self.members[bucket])
        places = np.arange(j * batch, (j + 1) * batch, dtype=np.int64) % n
        return self.members[bucket][shuffled(places, n, key(self.seed, 5, epoch, bucket))]

    def another(self, micro: int, u: float) -> int:
        rows = self.members[self._bucket(micro)[1]]
        return int(rows[int(u * len(rows))])
