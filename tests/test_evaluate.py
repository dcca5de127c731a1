"""phosphene evaluate: what it makes, scores and writes; and why two numbers differ."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.cli import main
from phosphene.data.base import open_source
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Linear
from phosphene.metrics.evaluation import copied
from phosphene.metrics.explain import explain, shares
from phosphene.metrics.features import extractor
from phosphene.metrics.interval import frechet_interval
from phosphene.metrics.neighbours import neighbours
from phosphene.metrics.report import Page, curves
from phosphene.metrics.statistics import collect, pictures
from phosphene.nets.autoencoder import ConvTower
from phosphene.nets.transformer import TextTransformer
from phosphene.nets.unet import UNet
from phosphene.systems.autoencoder import AutoencoderSystem
from phosphene.systems.clip import ClipSystem
from phosphene.systems.ddpm import Ddpm
from phosphene.text.encoders import TextEncoder
from phosphene.text.tokenizer import Tokenizer
from phosphene.weights import bundle
from systems.small import autoencoder, awake, ddpm, latent


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*words) -> None:
    assert main(["evaluate", *map(str, words)]) == 0


def folder_of(path, n, spread=255, seed=0, size=24):
    path.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, spread, (size, size, 3), np.uint8)).save(path / f"{i:03d}.png")
    return path


class Opened(HTMLParser):
    """A page's pictures and words, and whatever it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.fetched, self.words = 0, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        source = dict(attrs).get("src") or dict(attrs).get("href") or ""
        self.pictures += source.startswith("data:image/png;base64,")
        if tag in ("script", "link") or (source and not source.startswith("data:")):
            self.fetched.append(tag)

    def handle_data(self, data):
        self.words += data


def test_a_model_of_words(tiny_model, tmp_path, capsys):
    """Distances, words by a CLIP, a curve over guidance, neighbours; the numbers in JSON are those of the page."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red circle"], size=300, length=16)
    clip = ClipSystem(TextEncoder(tokenizer, TextTransformer(300, 8, 1, 2, 16)), ConvTower(8, (8,), 1, 2), 6, 16)
    judge = bundle.save(clip, tmp_path / "judge.safetensors")
    run(tiny_model, "--data", "scenes:n=30", "-n", 12, "--features", judge, "--guidance", 1, 3, "--out", tmp_path / "o")
    said = json.loads((tmp_path / "o/scores.json").read_text())
    page = Opened((tmp_path / "o/report.html").read_text())
    assert page.pictures == 4 and page.fetched == [] and "FD (CLIP judge" in page.words
    assert list(said["guidance"]) == ["1", "3"] and said["n"] == 12 and said["weights"]
    for it in said["guidance"].values():
        assert it["frechet"]["low"] <= it["frechet"]["value"] <= it["frechet"]["high"]
        assert f"{it['frechet']['value']:.4g}" in page.words and f"{it['clip_score']['value']:.4g}" in page.words
        assert 0 <= it["r_precision"]["value"] <= 1 and it["copies"]["of"] == 12
    assert said["guidance"]["1"] != said["guidance"]["3"]
    assert said["real"]["n"] == "30" and said["real"]["checksum"] == said["features"]["checksum"]
    printed = capsys.readouterr().out
    for note in ("12 made pictures: below 2048", "of the real pictures by their own words"):  # and it knows no words
        assert note in page.words and note in printed
    assert "over guidance" in page.words and "report.html" in printed
    assert re.search(r'text-anchor="end">CLIP score</text>', (tmp_path / "o/report.html").read_text())
    assert f"{said['words_of_real_pictures']['r_precision']['value']:.4g}" in page.words
    assert said["judge"]["features"].startswith("CLIP judge")


def test_scenes_are_read_back_exactly(tmp_path, capsys):
    """A model without words has no exact accuracy; one with words has, of every picture."""
    small = bundle.save(ddpm(), tmp_path / "small.safetensors")
    run(small, "--data", "scenes:n=9", "-n", 8, "--steps", 2, "--bits", 0, "--out", tmp_path / "o")
    said = json.loads((tmp_path / "o/scores.json").read_text())
    [it] = said["guidance"].values()
    assert "accuracy" not in it and "clip_score" not in it and it["kernel"]["value"] > 0
    assert said["steps"] == 2 and re.fullmatch(r"FD \(our CLIP [0-9a-f]{8}\)", said["title"])  # nothing was named


def test_the_same_numbers_again_from_cached_statistics(tmp_path):
    small, told = bundle.save(ddpm(), tmp_path / "small.safetensors"), []
    for out in ("a", "b"):
        run(small, "--data", "scenes:n=9", "-n", 6, "--steps", 1, "--out", tmp_path / out)
        [it] = json.loads((tmp_path / out / "scores.json").read_text())["guidance"].values()
        told.append({k: v for k, v in it.items() if k != "seconds_a_picture"})
    assert told[0] == told[1] and len(list((tmp_path / "cache/phosphene/statistics").iterdir())) == 1


def test_an_autoencoder_is_judged_by_its_copies(tmp_path, capsys):
    torch.manual_seed(0)
    ae = bundle.save(AutoencoderSystem(autoencoder()), tmp_path / "ae.safetensors")
    run(ae, "--data", "scenes:n=20", "-n", 12, "--out", tmp_path / "o")
    said = json.loads((tmp_path / "o/scores.json").read_text())
    assert 5 < said["psnr"]["value"] < 60 and said["ssim"]["value"] < 1 and said["n"] == 12
    assert said["frechet"]["low"] <= said["frechet"]["value"] <= said["frechet"]["high"]
    assert "reconstruction FD (our CLIP" in capsys.readouterr().out


def test_an_interval_of_copies_draws_pairs():
    """What copies leave out alike of every picture is a sure distance, however much the pictures differ."""

    class Dimmer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def encode(self, x):
            return x

        def decode(self, z):
            return z - 0.2

    source = open_source("scenes:n=60")
    shown = list(pictures(source, range(60), (32, 32)))
    eyes = extractor("thumbnails")
    it = copied(Dimmer(), shown, eyes)
    real = collect(map(eyes, shown), 192)
    alone = frechet_interval(collect((eyes(x - 25) for x in shown), 192).moments, real.kept, real.moments)
    assert it.frechet.value == pytest.approx(192 * 0.1**2, rel=0.15)  # white ones have room below
    assert it.frechet.high - it.frechet.low < 0.5 * (alone.high - alone.low)
    assert it.psnr.value == pytest.approx(20, abs=0.7) and len(it.pairs) == 8 and it.n == 60


def test_words_of_scenes_are_judged_exactly_and_pixels_have_bits(tmp_path, capsys):
    told = bundle.save(awake(latent()), tmp_path / "told.safetensors")
    words = ["--data", "scenes:n=20,split=unseen", "--held", "scenes:n=15,split=test", "-n", 24, "--steps", 1]
    run(told, *words, "--out", tmp_path / "o")
    said = json.loads((tmp_path / "o/scores.json").read_text())
    [it] = said["guidance"].values()
    assert it["accuracy"]["all"]["n"] == 24 and it["accuracy"]["unseen pairs"]["n"] == 24  # 20 rows, in turns
    assert said["real"]["n"] == "15" and said["held"] and it["copies"]["of"] == 24
    assert main(["evaluate", str(told), "--data", "scenes:n=4", "-n", "2", "--bits", "2", "--steps", "1"]) == 2
    assert "Latent has no likelihood of pixels" in capsys.readouterr().err
    net = UNet(3, 3, (16,), 1, (0,))
    small = bundle.save(Ddpm(Denoiser(net, Linear(5, 0.01, 0.9), "eps"), size=32), tmp_path / "bits.safetensors")
    run(small, "--data", "scenes:n=9", "-n", 6, "--steps", 1, "--bits", 3, "--out", tmp_path / "b")
    said = json.loads((tmp_path / "b/scores.json").read_text())
    assert said["bits_per_dimension"]["n"] == 3 and said["bits_per_dimension"]["value"] > 1
    assert "Bits per dimension" in (tmp_path / "b/report.html").read_text()


def test_what_cannot_be_evaluated(tmp_path, capsys, tiny_model):
    assert main(["evaluate", str(tiny_model)]) == 2
    assert "one model and --data SPEC" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_model), "--data", str(folder_of(tmp_path / "f", 4)), "-n", "2"]) == 2
    assert "has no caption, and this model wants one" in capsys.readouterr().err
    assert main(["evaluate", "--explain", str(tmp_path / "f")]) == 2
    assert "two folders" in capsys.readouterr().err


def test_explain_finds_what_was_done(tmp_path):
    """Of the same pictures, once through another resize, all but nothing of the difference is anything else."""
    a, b = (open_source(str(folder_of(tmp_path / name, 40, seed=seed))) for name, seed in (("a", 0), ("b", 1)))
    eyes = extractor("thumbnails")
    changes = explain(a, b, eyes)
    assert changes[0].moved == 0 and {c.kind for c in changes} == {
        "as it is", "resize", "resize of one side", "JPEG of one side", "sample count", "reference set"
    }  # fmt: skip
    for change in changes:
        assert change.moved == pytest.approx(change.distance - changes[0].distance)
    most = shares(changes)
    assert set(list(most)[:2]) == {"resize", "resize of one side"}  # noise without antialiasing has far more contrast
    same = explain(a, a, eyes)
    assert same[0].distance == pytest.approx(0, abs=1e-6)
    assert [c.distance for c in same if c.kind == "resize"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert max(c.distance for c in same if c.kind == "resize of one side") > 0.5


def test_explain_on_the_command_line(tmp_path, capsys):
    a, b = folder_of(tmp_path / "a", 10), folder_of(tmp_path / "b", 9, seed=1)
    run("--explain", a, b, "--out", tmp_path / "o")
    said = json.loads((tmp_path / "o/scores.json").read_text())
    page = Opened((tmp_path / "o/report.html").read_text())
    assert said["changes"][0]["kind"] == "as it is" and said["changes"][0]["what"].startswith("10 against 9")
    assert "pytorch-fid's" in page.words and page.fetched == []
    assert main(["evaluate", "--explain", str(a), str(folder_of(tmp_path / "c", 3))]) == 2
    assert "at least 8 are wanted" in capsys.readouterr().err


def test_neighbours_find_a_copy():
    trained = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    made = torch.cat([trained[7:8] + 1e-3, (trained[3:4] + trained[4:5]) / 2])
    found = neighbours(made, trained)
    assert int(found.nearest[0]) == 7 and found.ratio[0] < 0.01 and found.copies == 1
    twice = neighbours(made[:1], torch.cat([trained, trained[7:8]]))
    assert twice.ratio[0] == pytest.approx(1)


def test_pages_escape_and_curves_have_their_points():
    page = Page("<b>")
    page.text("a & <script>")
    page.table(["<i>"], [["<u>", None], [1 / 3, float("nan")]])
    text = "".join(page.parts)
    assert "<script>" not in text and "&lt;script&gt;" in text and "0.3333" in text and text.count("–") == 2
    drawn = curves({"a": [(1, 2), (2, 4), (3, float("nan"))], "b": []}, "x", "y", labels=["p", "q"])
    path = re.search(r'd="M([\d. L]+)" fill="none"', drawn)[1]
    assert len(path.split("L")) == 2 and drawn.count("<circle") == 2 and ">p<" in drawn
    (x0, y0), (x1, y1) = ([float(v) for v in point.split()] for point in path.split("L"))
    assert x1 > x0 and y1 < y0  # more is up
    assert curves({"a": []}, "x", "y") == ""
    ticks = re.findall(r'text-anchor="middle">([^<]+)<', curves({"a": [(10, 1), (3500, 2)]}, "step", "loss"))
    assert ticks == ["0", "1,000", "2,000", "3,000"]
