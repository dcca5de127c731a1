"""The CLIP that comes with the package: it is there, needs nothing, sees what is wrong, and reads two languages."""

import importlib
import itertools
import socket
import sys
from pathlib import Path

import pytest

from phosphene.data.base import open_source
from phosphene.metrics.features import extractor
from phosphene.weights import bundle

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/features.py: a script, in no package."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    yield importlib.import_module("features")
    sys.modules.pop("features", None)


@pytest.fixture
def eyes(monkeypatch):
    """The default features, with no way out of the machine."""

    def refused(*_):
        raise AssertionError("something wanted to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return extractor()


def test_it_is_small_and_says_what_it_is(eyes):
    assert eyes.title == f"FD (our CLIP {eyes.checksum[:8]})" and eyes.dim == 128
    told = bundle.describe("clip")
    assert told.kind == "ClipSystem" and told.size < 6e6
    for word in ("Noto Emoji", "Fluent Emoji", "Twemoji", "CC BY 4.0", "No OpenMoji", "compares only"):
        assert word in told.card, word
    assert told.card.strip() == (bundle.MODELS / "clip.md").read_text(encoding="utf-8").strip()


def test_distances_grow_with_what_is_wrong(eyes, benchmark):
    """Each kind of distortion at four strengths, from one to the next, by both distances."""
    source = open_source("scenes:size=64,n=400,split=test")
    shown = benchmark.of(source, 240)
    other = benchmark.of(open_source("scenes:size=64,n=120,objects=4"), 120).flip(3)  # red and blue exchanged
    for name, found in benchmark.curves(shown, other, eyes).items():
        for which, distances in zip(("Fréchet", "kernel"), zip(*found[1:])):
            assert all(a < b for a, b in itertools.pairwise(distances)), (name, which, distances)
        assert found[-1][0] > 1.3, (name, found)


def test_it_finds_words_in_both_languages(eyes, benchmark):
    found = benchmark.own_words(open_source("scenes:size=64,n=150,split=test"), eyes, 150)
    assert found["English"].low > 0.5 and found["Chinese"].low > 0.5, found  # chance is 0.01


def test_the_benchmark_prints_what_falls_back(benchmark, capsys):
    assert benchmark.row([1.0, 2.0, 2.0]).count("*") == 1
    benchmark.run("scenes:n=40", "scenes:n=40,split=test", features=("clip", "thumbnails"), n=10, words=20)
    said = capsys.readouterr().out
    assert said.count("mixed") == 4 and said.count("own caption of a hundred, Chinese") == 2
