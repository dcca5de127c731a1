"""Statistics: what is kept, in which memory, what the file says, and scores with intervals and notes."""

import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.data.base import open_source
from phosphene.errors import Problem
from phosphene.metrics import scores as scoring
from phosphene.metrics import statistics
from phosphene.metrics.features import extractor
from phosphene.metrics.frechet import Moments, frechet
from phosphene.metrics.interval import bootstrap, frechet_interval, mean_of
from phosphene.metrics.scores import scores
from phosphene.metrics.statistics import collect, load, pictures, reference, save, some_rows


def drawn(n, d=3, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def of(x, **about):
    return collect(x.split(64), x.shape[1], about)


def test_kept_features_are_a_fair_sample_and_moments_are_of_all():
    x = torch.arange(2000.0)[:, None]
    times = torch.zeros(20)
    for seed in range(60):
        it = collect(x.split(33), 1, keep=100, seed=seed)
        assert len(it.kept) == 100 and it.n == 2000 and float(it.moments.mean) == pytest.approx(999.5)
        assert torch.equal(it.kept[:, 0], it.rows.float()) and len(it.rows.unique()) == 100
        times += torch.histc(it.kept, 20, 0, 2000)
    assert (times - 300).abs().max() < 5 * 300**0.5  # 60 · 100 kept, 300 of each twentieth


def test_memory_does_not_grow_with_their_number():
    """No batch is held: each one is gone when the next but one comes, and what is kept does not grow."""
    alive = weakref.WeakSet()

    def batches(n):
        for i in range(n):
            batch = drawn(32, 16, i)
            alive.add(batch)
            assert len(alive) <= 2
            yield batch

    it = collect(batches(200), 16, keep=64)
    held = [it.kept, it.rows, it.moments.mean, it.moments.scatter]
    assert sum(t.untyped_storage().nbytes() for t in held) <= 64 * 16 * 4 + 64 * 8 + 17 * 16 * 8


def test_the_file_says_how_it_was_made(tmp_path):
    x = drawn(50)
    path = save(of(x, features="thumbnails", source="a folder"), tmp_path / "it.safetensors")
    it = load(path, features="thumbnails")
    assert torch.equal(it.kept, x) and it.n == 50
    assert torch.equal(it.moments.covariance, Moments.of(x).covariance)
    assert {"source", "features", "date", "phosphene", "torch", "n"} <= set(it.about)
    with pytest.raises(Problem, match="made with features 'thumbnails', not 'Inception'"):
        load(path, features="Inception")
    torch.save({"mean": x}, tmp_path / "other.pt")
    with pytest.raises(Problem, match="no statistics of pictures"):
        load(tmp_path / "other.pt")


def test_a_reference_is_made_once_and_again_when_the_pictures_change(tmp_path):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)).save(folder / f"{i}.png")

    def made(**how):
        return reference(open_source(str(folder)), extractor("thumbnails", **how), (16, 16), folder=cache)

    first = made()
    assert len(list(cache.iterdir())) == 1 and first.n == 6
    assert torch.equal(made().kept, first.kept) and len(list(cache.iterdir())) == 1
    assert made(resize="torch").about["resize"] == "torch" and len(list(cache.iterdir())) == 2
    Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)).save(folder / "3.png")
    assert not torch.equal(made().kept, first.kept)
    (folder / "2.png").write_bytes(b"not a picture")
    with pytest.raises(Problem, match="not comparable"):
        scores(made(), made(resize="torch"))
    assert made().n == 5 and made().rows.tolist() == [0, 1, 3, 4, 5]  # of the source, not of what could be read


def test_pictures_are_cropped_as_in_training_or_left_as_they_are(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "0.png")
    source = open_source(str(tmp_path))
    [own] = pictures(source, [0], None)
    [middle] = pictures(source, [0], (10, 10))
    assert own.shape == (1, 10, 30, 3) and (middle == 200).all()
    assert some_rows(source, 5) == [0]


def test_an_intervals_width_is_that_of_repeated_measurement():
    """The distance of fresh samples scatters as the bootstrap of one of them says, also where it kept only some."""
    real = Moments.of(drawn(4000, 4))
    found = [frechet(Moments.of(drawn(400, 4, seed, 0.3)), real) for seed in range(1, 201)]
    half = 1.96 * float(np.std(found, ddof=1))
    x = drawn(400, 4, 777, 0.3)
    for kept in (x, x[:200]):
        it = frechet_interval(Moments.of(x), kept, real)
        assert it.value == frechet(Moments.of(x), real) and it.low < it.value < it.high
        assert (it.high - it.value) == pytest.approx(half, rel=0.35)


def test_copies_are_drawn_again_with_what_they_are_copies_of():
    """What both have in common does not count: the width is that of repeated measurement, not of two samples."""
    generator = torch.Generator().manual_seed(0)
    values, halves, alone = [], [], []
    for _ in range(30):
        x = torch.randn(200, 3, generator=generator)
        copy = 0.7 * x + 0.1 * torch.randn(200, 3, generator=generator)
        it = frechet_interval(Moments.of(copy), copy, Moments.of(x), copies=x)
        values.append(it.value)
        halves.append(it.high - it.value)
        alone.append(frechet_interval(Moments.of(copy), copy, Moments.of(x)).high - it.value)
    width = 1.96 * float(torch.tensor(values).std())
    assert sum(halves) / len(halves) == pytest.approx(width, rel=0.35) and sum(alone) > 1.5 * sum(halves)


def test_the_interval_of_a_mean_is_its_bootstrap():
    values = drawn(500, 1, 3)[:, 0].double()
    ours, drawn_again = mean_of(values), bootstrap(float(values.mean()), lambda rows: float(values[rows].mean()), 500)
    assert ours.value == pytest.approx(float(values.mean()))
    assert ours.high - ours.low == pytest.approx(drawn_again.high - drawn_again.low, rel=0.15)
    assert ours.high - ours.value == pytest.approx(1.96 * float(values.std()) / 500**0.5)
    with pytest.raises(Problem, match="at least 2 pictures, not 1"):
        mean_of(values[:1])


def test_scores_warn_of_too_few(monkeypatch):
    few, many = of(drawn(30, 40)), of(drawn(300, 40, 1))
    found = scores(few, many)
    assert "30 made pictures for 40 dimensions" in found.notes[0] and "below 2048" in found.notes[1]
    json.dumps(found.plain())
    monkeypatch.setattr(scoring, "LITTLE", 100)
    assert scores(many, of(drawn(300, 40, 2))).notes == []
    assert "100 of 300 made features" in scores(collect([drawn(300)], 3, keep=100), of(drawn(300))).notes[-1]


def test_the_inception_score_is_of_the_classes():
    x = 1000 * torch.eye(4).repeat(25, 1)
    found = scores(of(x + drawn(100, 4) / 100), of(x + drawn(100, 4, 1) / 100), torch.eye(4))
    assert found.inception_score.value == pytest.approx(4, abs=0.5)
    assert found.manifold["precision"].value > 0.5 and found.frechet.value < 10


def test_cached_files_are_ours(tmp_path):
    statistics.save(of(drawn(9)), tmp_path / "a.safetensors")
    with pytest.raises(Problem, match="at least 2 pictures, not 1"):
        collect([drawn(1)], 3)
