"""What a batch depends on: the seed and its position, and nothing else."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.data.base import Example
from phosphene.data.batches import Batches, Buckets, cached
from phosphene.errors import Problem
from phosphene.systems.base import Batch, System


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.image, b.image) and a.prompts == b.prompts and torch.equal(a.index, b.index)


def first(batches: Batches, n: int, **options) -> list[Batch]:
    return [b for _, drawn in itertools.islice(batches.stream(**options), n) for b in drawn]


class Halves(System):
    """Stands in for a latent system: the "latent" is the left half of the picture, negated."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(-1.0))
        self.seen: list[bool] = []

    def prepare(self, batch):
        self.seen.append(self.training or torch.is_grad_enabled())
        return Batch(batch.image[..., :4] * self.scale, batch.prompts, batch.index, prepared=True)


# -- what a batch is -------------------------------------------------------------------------------------------------


def test_shapes_and_range(rows):
    batch = Batches(rows(300), size=(8, 8), batch=6).at(0)
    assert batch.image.shape == (6, 3, 8, 8) and batch.image.dtype == torch.float32 and not batch.prepared
    levels = (batch.image[:, 0, 0, 1] + 1) * 127.5
    assert torch.allclose(levels, (batch.index % 256).float(), atol=1e-3)
    assert torch.all(batch.image[:, :, :, 0] == 1)


def test_a_batch_is_a_function_of_seed_step_and_slot(rows):
    batches = Batches(rows(50), size=8, batch=4, slots=2, flip=True)
    later = [batches.at(7, 1), batches.at(0, 0), batches.at(7, 1)]
    fresh = Batches(rows(50), size=8, batch=4, slots=2, flip=True)
    assert same(later[0], later[2]) and same(later[0], fresh.at(7, 1)) and same(later[1], fresh.at(0, 0))
    assert not same(fresh.at(7, 0), fresh.at(7, 1))
    assert not same(fresh.at(7, 0), Batches(rows(50), size=8, batch=4, slots=2, flip=True, seed=1).at(7, 0))


def test_torch_and_numpy_generators_are_neither_used_nor_changed(rows):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a = first(Batches(rows(50), size=8, batch=4, flip=True), 2, workers=1)
    cached(Batches(rows(50), size=8, batch=4), Halves())
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(1)
    assert all(map(same, a, first(Batches(rows(50), size=8, batch=4, flip=True), 2)))


def test_how_a_step_is_cut_into_slots_changes_nothing(rows):
    whole = Batches(rows(50), size=8, batch=8, flip=True, crop="random").at(3)
    halves = [Batches(rows(50), size=8, batch=4, slots=2, flip=True, crop="random").at(3, s) for s in (0, 1)]
    assert torch.equal(whole.image, torch.cat([h.image for h in halves]))
    assert whole.prompts == halves[0].prompts + halves[1].prompts


def test_every_row_once_an_epoch(rows):
    batches = Batches(rows(60), size=8, batch=5, slots=3)
    drawn = first(batches, 8)  # 120 rows: two epochs
    index = torch.cat([b.index for b in drawn]).view(2, 60)
    assert all(sorted(epoch.tolist()) == list(range(60)) for epoch in index) and not torch.equal(*index)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(rows, workers):
    def make():
        return Batches(rows(40, bad=[3, 4, 30]), size=8, batch=4, slots=2, flip=True, crop="random")

    alone, helped = make(), make()
    expected = first(alone, 6, start_step=5)
    assert all(map(same, expected, first(helped, 6, start_step=5, workers=workers)))
    assert set(alone.broken) <= set(helped.broken) and alone.broken


def test_stream_gives_the_slots_asked_for(rows):
    batches = Batches(rows(40), size=8, batch=4, slots=3)
    (step, drawn), *_ = itertools.islice(batches.stream(start_step=9, slots=[2, 0]), 1)
    assert step == 9 and len(drawn) == 2 and same(drawn[0], batches.at(9, 2)) and same(drawn[1], batches.at(9, 0))


def test_a_problem_in_a_worker_comes_up_as_it_is(rows):
    with pytest.raises(
        Problem, match=r"^rows: 5 broken pictures and no good one in 100 tries; the first: rows, row \d: "
    ):
        next(Batches(rows(5, bad=range(5)), size=8, batch=2).stream(workers=1))


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_all_captions_are_drawn_equally_often_and_a_share_is_dropped(rows):
    batches = Batches(rows(100, captions=4), size=8, batch=100, drop=0.2)
    prompts = [p for step in range(40) for p in batches.at(step).prompts]
    assert abs(prompts.count(None) / 4000 - 0.2) < 0.025  # four standard errors
    which = Counter(p.split("/")[1] for p in prompts if p)
    assert len(which) == 4 and max(which.values()) - min(which.values()) < 170


def test_prompts_belong_to_their_rows(rows):
    batch = Batches(rows(50), size=8, batch=50, drop=0).at(2)
    assert [int(p.split("/")[0]) for p in batch.prompts] == batch.index.tolist()
    labels = Batches(rows(50), size=8, batch=50, drop=0, prompts="label").at(2)
    assert labels.prompts == [i % 10 for i in labels.index.tolist()]
    assert Batches(rows(50), size=8, batch=50, prompts="none").at(2).prompts == [None] * 50
    assert Batches(rows(50), size=8, batch=50, drop=1, prompts="label").at(2).prompts == [None] * 50


def test_a_row_without_captions_gives_the_null_prompt(rows):
    assert Batches(rows(5, captions=0), size=8, batch=5, drop=0).at(0).prompts == [None] * 5


# -- pictures --------------------------------------------------------------------------------------------------------


def test_half_of_the_pictures_are_mirrored(rows):
    images = torch.cat([Batches(rows(200), size=8, batch=200, flip=True).at(s).image for s in range(5)])
    mirrored = (images[:, 0, 0, -1] == 1) & (images[:, 0, 0, 0] != 1)
    assert 0.43 < mirrored.float().mean() < 0.57
    assert torch.all((images[:, 0, 0, 0] == 1) | mirrored)


def test_crops(rows):
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (8, 0, 24, 16))

    class One:
        name = "one"

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return Example(image)

    center = Batches(One(), size=16, batch=4).at(0).image
    assert torch.all(center == 1)
    squashed = Batches(One(), size=16, batch=1, crop="squash").at(0).image[0, 0, 8]
    assert squashed[0] < -0.9 and squashed[-1] < -0.9 and squashed[7] > 0.9
    moved = Batches(One(), size=16, batch=64, crop="random").at(0).image[:, 0].gt(0).float().mean((1, 2))
    assert moved.min() < 0.65 and moved.max() > 0.9  # the white half is partly out of sight, or not
    tall = Batches(One(), size=(16, 8), batch=1).at(0).image
    assert tall.shape == (1, 3, 16, 8) and torch.all(tall == 1)


def test_grey_pictures_and_ready_tensors(rows):
    assert Batches(rows(5), size=8, batch=2, channels=1).at(0).image.shape == (2, 1, 8, 8)

    class Ready(rows):
        def __getitem__(self, i):
            return Example(torch.full((4, 2, 2), float(i)), ("x",))

    batch = Batches(Ready(5), size=8, batch=2).at(0)
    assert torch.equal(batch.image[:, 0, 0, 0], batch.index.float()) and batch.image.shape == (2, 4, 2, 2)


def test_broken_pictures_are_named_and_replaced_by_place(rows):
    batches, whole = Batches(rows(20, bad=[7, 11]), size=8, batch=20), Batches(rows(20), size=8, batch=20)
    got, meant = batches.at(0), whole.at(0)
    assert set(batches.broken) == {7, 11} and batches.broken[7] == "rows, row 7: broken picture"
    other = got.index != meant.index
    assert other.sum() == 2 and set(meant.index[other].tolist()) == {7, 11}
    assert [int(p.split("/")[0]) for p, i in zip(got.prompts, got.index, strict=True) if p] == [
        int(i) for p, i in zip(got.prompts, got.index, strict=True) if p
    ]
    assert same(got, Batches(rows(20, bad=[7, 11]), size=8, batch=20).at(0))


# -- buckets ---------------------------------------------------------------------------------------------------------


def test_bucket_sizes():
    sizes = Buckets(256 * 256, 64, 2.0).sizes()
    assert (256, 256) in sizes and (192, 320) in sizes and (320, 192) in sizes
    assert all(h % 64 == 0 and w % 64 == 0 and h * w <= 256 * 256 * 1.01 and max(h / w, w / h) <= 2 for h, w in sizes)


def test_buckets_group_pictures_of_like_shape(rows):
    source = rows(50, sizes=((40, 20), (20, 20), (20, 40)), bad=[4])
    batches = Batches(source, size=Buckets(16 * 16, 4, 2.0), batch=4, slots=2)
    shapes = Counter()
    for step, slot in itertools.product(range(8), range(2)):
        batch = batches.at(step, slot)
        height, width = batch.image.shape[2:]
        shapes[height, width] += 1
        wanted = [source.sizes[i % 3] for i in batch.index.tolist()]
        assert all((w > h) == (width > height) and (w == h) == (width == height) for w, h in wanted)
        assert same(batch, Batches(source, size=Buckets(16 * 16, 4, 2.0), batch=4, slots=2).at(step, slot))
    assert len(shapes) == 3 and batches.broken == {4: "rows, row 4: broken picture"}


# -- cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_latents_are_those_of_the_same_batches(rows, flip, workers):
    plain = Batches(rows(200, bad=[5, 150]), size=8, batch=16, slots=2, flip=flip)
    system = Halves().train()
    kept = cached(plain, system, workers=workers, dtype=torch.float32)
    assert system.training and not any(system.seen)
    assert set(kept.broken) == {5, 150}
    for step, slot in [(0, 0), (4, 1), (9, 0)]:
        a, b = (
            kept.at(step, slot),
            Batches(rows(200, bad=[5, 150]), size=8, batch=16, slots=2, flip=flip).at(step, slot),
        )
        assert a.prepared and a.prompts == b.prompts and torch.equal(a.index, b.index)
        assert torch.equal(a.image, -b.image[..., :4])


def test_cached_pictures_are_the_same_pictures(rows):
    plain = Batches(rows(30, bad=[5]), size=8, batch=8, flip=True)
    kept = cached(plain)
    assert kept.table.dtype == torch.uint8 and all(same(kept.at(s), plain.at(s)) for s in range(6))
    assert all(map(same, first(kept, 3, workers=4), first(plain, 3)))


def test_what_prepare_draws_comes_from_the_seed(rows):
    class Noisy(Halves):
        def prepare(self, batch):
            return Batch(torch.randn(len(batch.image), 1, 2, 2), batch.prompts, batch.index, prepared=True)

    tables = []
    for ours, torchs in [(0, 0), (0, 1), (1, 0)]:
        torch.manual_seed(torchs)
        tables.append(cached(Batches(rows(9), size=8, batch=2, seed=ours), Noisy()).table)
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


def test_captions_of_cached_rows_are_drawn_anew(rows):
    kept = cached(Batches(rows(4), size=8, batch=4, drop=0), Halves())
    assert len({p for step in range(30) for p in kept.at(step).prompts}) == 4 * 3


def test_a_cached_batch_is_drawn_in_no_time(rows):
    kept = cached(Batches(rows(2000), size=8, batch=128, flip=True), Halves())
    kept.at(0)
    spent = []
    for step in range(30):
        start = time.perf_counter()
        kept.at(step)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.003


def test_a_cache_cannot_hold_random_crops_and_buckets(rows):
    for options in ({"size": 8, "crop": "random"}, {"size": Buckets(64, 4)}):
        with pytest.raises(Problem, match=r"a cache holds each picture in one size and one crop"):
            cached(Batches(rows(9), batch=2, **options))


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"size": 0}, "1…16384"),
        ({"size": -8}, "1…16384"),
        ({"size": 10**9}, "1…16384"),
        ({"size": (8, 8, 8)}, r"\(height, width\)"),
        ({"size": 100, "multiple": 8}, "not divisible by 8.*96 would fit"),
        ({"size": (64, 30), "multiple": 8}, "not divisible by 8"),
        ({"batch": 0}, "at least 1"),
        ({"slots": 0}, "at least 1"),
        ({"drop": 1.5}, "0…1"),
        ({"prompts": "captions"}, "did you mean 'caption'"),
        ({"crop": "centre"}, "did you mean 'center'"),
        ({"background": "chartroose"}, "is no colour"),
        ({"background": (300, 0, 0)}, "is no colour"),
        ({"channels": 4}, "3 .colour. or 1 .grey."),
        ({"size": Buckets(100, 64)}, "at least one 64x64"),
    ],
)
def test_options_that_make_no_sense(rows, options, says):
    with pytest.raises(Problem, match=says):
        Batches(rows(9), **{"size": 8, "batch": 2, **options})


def test_empty_and_wholly_broken_sources(rows):
    with pytest.raises(Problem, match=r"rows is empty"):
        Batches(rows(0), size=8, batch=2)
    for make in (lambda b: b.at(0), cached):
        with pytest.raises(Problem, match=r"the first: rows, row 0: broken|no good one in 100 tries"):
            make(Batches(rows(3, bad=range(3)), size=8, batch=2))
    with pytest.raises(Problem, match=r"none of its 3 pictures"):
        Batches(rows(3, bad=range(3)), size=Buckets(64, 4), batch=2)


def test_a_source_that_lacks_the_prompts_says_so_at_once(rows):
    source = rows(3)
    source.lacks = {"caption": "no caption column; there are a, b"}
    with pytest.raises(Problem, match=r"no caption column; there are a, b"):
        Batches(source, size=8, batch=2)
    Batches(source, size=8, batch=2, prompts="label")
