"""The order of rows: a permutation an epoch, computed anywhere, fair."""

import itertools
from collections import Counter

import numpy as np
import pytest

from phosphene.data.order import Bucketed, Shuffled, key, shuffled, uniform


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 64, 1000, 4097])
def test_shuffled_is_a_permutation(n):
    assert sorted(shuffled(np.arange(n), n, seed=3).tolist()) == list(range(n))


def test_shuffled_depends_on_nothing_but_place_and_seed():
    whole = shuffled(np.arange(1000), 1000, 7)
    assert shuffled(np.array([5, 999, 5]), 1000, 7).tolist() == [whole[5], whole[999], whole[5]]
    assert shuffled(np.arange(1000), 1000, 8).tolist() != whole.tolist()


def test_shuffled_works_on_sets_that_no_memory_holds():
    n = 10**15
    values = shuffled(np.arange(2000) + 123_456_789_012, n, 1)
    assert len(set(values.tolist())) == 2000 and values.min() >= 0 and values.max() < n
    assert abs(values.mean() / n - 0.5) < 0.03  # 0.5 ± 4.6 standard errors of a uniform draw


def test_shuffled_is_fair():
    """All 24 orders of 4 rows occur, equally often: χ² with 23 degrees of freedom, 99.99 % below 58."""
    orders = Counter(tuple(shuffled(np.arange(4), 4, key(seed)).tolist()) for seed in range(4800))
    chi2 = sum((orders[o] - 200) ** 2 / 200 for o in itertools.permutations(range(4)))
    assert chi2 < 58


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(key(5), np.arange(20_000))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # χ², 19 degrees of freedom
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(u, uniform(key(6), np.arange(20_000)))[0, 1]) < 0.03


@pytest.mark.parametrize("shards", [None, [3, 0, 5, 2]])
def test_every_row_once_an_epoch(shards):
    order = Shuffled(10, seed=4, shards=shards)
    rows = np.concatenate([order.rows(micro, 4) for micro in range(15)]).reshape(6, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in rows)
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 6


def test_shards_are_read_one_after_the_other():
    order = Shuffled(10, seed=4, shards=[3, 0, 5, 2])
    orders = set()
    for epoch in range(5):
        shard = [0 if r < 3 else 2 if r < 8 else 3 for r in order.rows(epoch, 10).tolist()]
        assert len(list(itertools.groupby(shard))) == 3
        orders.add(tuple(dict.fromkeys(shard)))
    assert len(orders) > 1
    assert order.rows(3, 10).tolist() == Shuffled(10, seed=4, shards=[3, 0, 5, 2]).rows(3, 10).tolist()


def test_buckets_have_one_size_and_leave_nobody_out():
    members = {(8, 16): np.arange(0, 7), (8, 8): np.arange(7, 10), (16, 8): np.arange(10, 30)}
    order = Bucketed(members, seed=2, batch=4)
    seen = Counter()
    for micro in range(2 + 1 + 5):  # ⌈7/4⌉ + ⌈3/4⌉ + ⌈20/4⌉
        rows = order.rows(micro, 4)
        assert set(rows.tolist()) <= set(members[order.size(micro)].tolist())
        assert order.another(micro, 0.999) in members[order.size(micro)]
        seen.update(rows.tolist())
    assert set(seen) == set(range(30)) and max(seen.values()) <= 2
