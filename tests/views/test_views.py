"""Film strips, guidance and levels are what the formulas say; pages say how they were made."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from phosphene import views
from phosphene.cli import main
from phosphene.cli.options import parse
from phosphene.cli.show import VIEWS, place
from phosphene.data.scenes import Scenes
from phosphene.diffusion.denoiser import target
from phosphene.errors import Problem
from phosphene.views.guidance import pull
from phosphene.views.levels import measure
from phosphene.views.model import run
from phosphene.views.page import KEY, Grid, View, written
from phosphene.views.plot import Curve, Plot
from systems.small import awake, eight, made

film, levels_module = (importlib.import_module(f"phosphene.views.{name}") for name in ("film", "levels"))
DATA = "scenes:size=32,n=40,objects=1-1"


@pytest.fixture(scope="module")
def system():
    return awake(made("latent")[0])


# Film ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_generates_and_its_looks_are_the_samplers(system):
    how = dict(steps=4, sampler="ddim", guidance=2.0)
    looks, picture = run(system, "a red circle", 5, **how)
    previews = list(system.generate(["a red circle"], seeds=[5], **how))
    assert torch.equal(picture, previews[-1].picture())
    assert [float(look.t) for look in looks] == system.denoiser.schedule.times(4)[:-1].tolist()
    assert torch.equal(system.decode(looks[1].x0), previews[1].picture())
    now, then = (system.denoiser.schedule(look.t) for look in looks[:2])  # DDIM: the next x is the guess, moved
    eps = (looks[0].x - float(now.alpha) * looks[0].x0) / float(now.sigma)
    moved = float(then.alpha) * looks[0].x0 + float(then.sigma) * eps
    torch.testing.assert_close(looks[1].x, moved, atol=1e-5, rtol=1e-4)


def test_forward_is_the_schedules_jump():
    system = awake(made("ddpm")[0])
    picture = Scenes(n=1)[0]
    looks, clean = film.forward(system, picture, None, 7, 5)
    assert len(looks) == 5 and clean.shape == (1, 3, 32, 32)
    noise = [
        (look.x - float(level.alpha) * clean) / float(level.sigma)
        for look in looks
        for level in [system.denoiser.schedule(look.t)]
    ]
    for eps in noise[1:]:
        torch.testing.assert_close(eps, noise[0], atol=1e-3, rtol=1e-3)
    assert abs(float(noise[0].std()) - 1) < 0.05 and float(looks[0].t) == 1.0
    [grid] = views.film(model=system, picture=picture, columns=5).parts
    assert grid.columns[0] == "t 0\nclean" and grid.columns[-1].startswith("t 1.00")  # from the picture to noise
    assert [cell is None for cell in grid.cells[1]] == [True, *[False] * 5]


def test_a_film_has_a_column_a_time_and_the_picture_at_its_end(system):
    view = views.film("a red circle", model=system, seed=5, columns=4, steps=6)
    [grid] = view.parts
    assert [len(row) for row in grid.cells] == [5, 5, 5] and len(grid.rows) == 3
    assert view.numbers["t"] == pytest.approx(system.denoiser.schedule.times(6)[:-1].tolist())
    assert grid.columns[0] == "t 1.00\nlogsnr -inf"
    assert "decoded" in view.reading and "red, green and blue" in view.reading


def test_noise_of_latents_is_shown_by_its_strongest_directions():
    """A latent that varies along one direction only: noise along it is seen, noise across it is not."""
    way = torch.tensor([3.0, 0.0, 4.0, 0.0]) / 5
    latent = way[:, None, None] * torch.randn(1, 8, 8) + 0.001 * torch.randn(4, 8, 8)
    axes = film.principal(latent)
    assert abs(float(axes[0] @ way)) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)
    along = film.noise_of(3 * way[:, None, None].expand(4, 8, 8), axes)
    assert along.getpixel((0, 0))[0] in (0, 255) and abs(along.getpixel((0, 0))[1] - 128) < 3
    plain = film.noise_of(torch.tensor([3.0, 0.0, -3.0])[:, None, None].expand(3, 4, 4), None)
    assert plain.getpixel((0, 0)) == (255, 128, 0)


# Guidance ------------------------------------------------------------------------------------------------------------


def test_norms_are_those_of_two_guesses(system):
    how = dict(steps=4, guidance=3.0, sampler="ddim")
    found = pull(system, "a red circle", 5, **how)
    looks, picture = run(system, "a red circle", 5, **how)
    assert torch.equal(found.picture, picture) and len(found.t) == 4
    told, untold = system.encoder(["a red circle"]).padded(16), system.encoder([None]).padded(16)
    for i, (t, x, _) in enumerate(looks):
        with torch.no_grad():
            c, nothing = (system.denoiser(x, t, cond).x0.double() for cond in (told, untold))
        level, way = system.denoiser.schedule(t), (c - nothing).flatten()
        norm = float(way.norm()) / way.numel() ** 0.5
        assert found.x0[i] == pytest.approx(norm, rel=1e-3) and norm > 0
        assert found.eps[i] == pytest.approx(norm * float(level.alpha / level.sigma), rel=1e-3)
        cosine = float(way @ nothing.flatten() / way.norm() / nothing.norm())
        assert found.cosine[i] == pytest.approx(cosine, abs=1e-3)
        guided = nothing + 3.0 * (c - nothing)
        torch.testing.assert_close(looks[i].x0.double(), guided, atol=1e-3, rtol=1e-3)


def test_guidance_of_several_pictures(system):
    view = views.guidance(["a red circle", "a blue ring"], model=system, seed=[1, 2], steps=3, guidance=2.0)
    grid, *plots = view.parts
    assert grid.columns == ["a red circle", "a blue ring"] and len(plots) == 3
    assert all([curve.name for curve in plot.curves] == grid.columns for plot in plots)
    again = views.guidance("a red circle", model=system, seed=1, n=2, steps=3, guidance=2.0)
    assert list(again.numbers) == ["a red circle, 1", "a red circle, 2"]
    assert again.numbers["a red circle, 1"] == view.numbers["a red circle"]


@pytest.mark.parametrize(
    ("name", "prompt", "how", "says"),
    [
        ("latent", "a red circle", {"guidance": 1.0}, "guidance=1: the network is asked once"),
        ("latent", "a AND b", {"guidance": 2.0}, "composed of several"),
        ("ddpm", None, {}, "told nothing"),
        ("vae", "x", {}, "no denoiser"),
    ],
)
def test_what_has_no_guidance_is_told_so(name, prompt, how, says):
    with pytest.raises(Problem, match=says):
        views.guidance(prompt, model=made(name)[0], steps=1, **how)


# Levels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddpm", "latent", "upscaler"])
def test_the_loss_at_a_level_is_the_denoisers_own(name, monkeypatch):
    """Against Denoiser.loss at that time, with that noise, on those pictures."""
    system, _ = made(name)
    system, caught, ask = awake(system), [], system.denoiser.forward

    def asked(x, t, cond=None):
        caught.append((x, t, cond))
        return ask(x, t, cond)

    monkeypatch.setattr(levels_module, "told_to", lambda _: "none")
    monkeypatch.setattr(system.denoiser, "forward", asked)
    found = measure(system, DATA, n=8, points=5, of=system.denoiser.predicts)
    monkeypatch.undo()
    schedule = system.denoiser.schedule
    assert len(found.logsnr) == len(caught) and found.logsnr == sorted(found.logsnr)
    x, t, cond = caught[0]  # x0 and eps of two looks at the same pictures, by the schedule
    y, s, _ = caught[-1]
    (a, b), (c, d) = ([float(v) for v in schedule(u)] for u in (t, s))
    x0, eps = (d * x - b * y) / (a * d - b * c), (a * y - c * x) / (a * d - b * c)
    for i, (_, t, _) in enumerate(caught):
        with torch.no_grad():
            wanted = system.denoiser.loss(x0, cond, t.repeat(len(x0)), eps)
        assert found.loss[i].value == pytest.approx(float(wanted.mean()), rel=2e-3)
        half = 1.96 * float(wanted.std()) / len(wanted) ** 0.5
        assert found.loss[i].high - found.loss[i].value == pytest.approx(half, rel=0.02)


@pytest.mark.parametrize("of", ["eps", "x0", "v", "flow", "edm"])
def test_yardsticks_are_what_they_say(of):
    """The constant and the line, as losses of who answers so, on many draws of Gaussian pictures."""
    from phosphene.diffusion.schedule import Cosine

    torch.manual_seed(0)
    schedule, spread = Cosine(), 0.49
    x0, eps = 0.3 + spread**0.5 * torch.randn(200_000).double(), torch.randn(200_000).double()
    for t in (0.2, 0.5, 0.9):
        level = schedule(torch.tensor(t))
        asked, x = target(of, level, x0, eps), level.alpha * x0 + level.sigma * eps
        constant = float((asked - asked.mean()).square().mean())
        c = (x * x0).mean() - x.mean() * x0.mean()
        guess = x0.mean() + c / x.var() * (x - x.mean())  # least squares
        line = float((target(of, level, guess, (x - level.alpha * guess) / level.sigma) - asked).square().mean())
        ours = levels_module.yardsticks(of, level, spread)
        assert ours == pytest.approx((constant, line), rel=0.03)


def test_models_are_compared_on_the_same_pictures(system):
    view = views.levels([system, system], data=DATA, n=6, points=3)
    one, two = view.numbers.values()
    assert one == two and len(view.numbers) == 2
    [plot] = view.parts
    assert [curve.name for curve in plot.curves[2:]] == ["constant", "line"]
    assert len(plot.curves[0].band) == len(plot.curves[0].points) == 3
    low, value, high = plot.curves[0].band[0][0], plot.curves[0].points[0][1], plot.curves[0].band[0][1]
    assert low < value < high


@pytest.mark.slow
def test_a_trained_network_is_below_the_line_and_one_without_training_is_not():
    from systems.small import overfit

    torch.manual_seed(0)
    system = made("ddpm")[0]
    fresh = measure(system, "scenes:size=32,n=8,objects=1-1", n=8, points=5, of="v")
    overfit(system, eight("none"), 60, 3e-3)
    learned = measure(system.eval(), "scenes:size=32,n=8,objects=1-1", n=8, points=5, of="v")
    middle = 2  # logsnr 0
    assert learned.loss[middle].value < 0.7 * fresh.loss[middle].value
    assert fresh.loss[middle].value > 0.9 * fresh.line[middle]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"n": 1}, "n=1"),
        ({"points": 1}, "points=1"),
        ({"of": "noise"}, "unknown prediction"),
        ({"data": "nosuch"}, "nosuch"),
    ],
)
def test_levels_that_cannot_be(system, how, says):
    with pytest.raises(Problem, match=says):
        views.levels(system, **{"data": DATA, **how})


# Pages ---------------------------------------------------------------------------------------------------------------


def view() -> View:
    square = Image.new("RGB", (16, 16), "red")
    curve = Curve("狐狸 <b>", [(0.0, 1.0), (1.0, 2.0)], [(0.5, 1.5), (1.0, 3.0)])
    parts = [
        Grid([[square, None]], ["a row"], ["one", "two"]),
        Plot([curve, Curve("y", [(0.0, 1.5)], dash=(2, 2))], "x", "up"),
    ]
    return View(
        "A <title>", parts, "How it is read.", {"command": "phosphene show x", "model": "tiny", "weights": "abc"}
    )


def test_a_png_carries_how_it_was_made(tmp_path):
    path = view().save(tmp_path / "deep" / "x.png")
    with Image.open(path) as image:
        told = json.loads(image.text[KEY])
        pixels = image.convert("RGB")
    assert told["command"] == "phosphene show x" and told["weights"] == "abc"
    colours = {colour for _, colour in pixels.getcolors(100_000)}
    assert (255, 0, 0) in colours and (255, 255, 255) in colours
    assert view()._repr_png_()[:4] == b"\x89PNG"


def test_html_holds_everything_and_escapes_it(tmp_path):
    text = view().save(tmp_path / "x.html").read_text("utf-8")
    assert text.count("data:image/png;base64") == 2 and 'src="http' not in text and "<script" not in text
    for said in ("A &lt;title&gt;", "How it is read.", "<code>phosphene show x</code>", "weights abc", "a row", "two"):
        assert said in text


def test_words_are_never_wider_than_their_place():
    """Nothing is cut: the first and last columns of a text drawn too wide are white only if it was wrapped."""
    text = "logsnr is log(alpha^2/sigma^2): below 0 there is more noise than picture. " * 3
    drawn = written(text, 24, 300, "black").convert("L")
    assert drawn.width == 300 and drawn.height > 8 * 24
    assert min(drawn.crop((298, 0, 300, drawn.height)).getdata()) > 200


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.pdf"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(Problem, match=r"\.png or as \.html"):
        view().save(tmp_path / name)


def test_a_plot_draws_each_curve_in_its_colour():
    plot = Plot([Curve("a", [(0, 1), (1, 3)]), Curve("b", [(0, 3), (1, 1)])], "x", "y", logarithmic=True)
    colours = {colour for _, colour in plot.drawn().getcolors(1_000_000)}
    assert {(0x25, 0x63, 0xEB), (0xDC, 0x26, 0x26)} <= colours
    Plot([Curve("flat", [(0.5, 0.0)]), Curve("nan", [(0.5, float("nan"))])], "x", "y", logarithmic=True).drawn()


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["film", "fox", "--seed", "4", "--steps", "3", "--columns", "3"],
        ["film", "--data", "scenes:n=2", "--row", "1", "--columns", "3"],
        ["words", "fox", "--seed", "4", "--steps", "2"],
        ["guidance", "fox", "狐狸", "--seed", "4", "--steps", "2"],
        ["levels", "--data", "scenes:n=4", "-n", "3", "--points", "3"],
    ],
)
def test_the_command_writes_both_kinds(argv, tiny_model, tmp_path, capsys):
    model = [str(tiny_model)] if argv[0] == "levels" else ["--model", str(tiny_model)]
    for ending in ("png", "html"):
        out = tmp_path / f"x.{ending}"
        assert main(["show", *argv, *model, "--out", str(out)]) == 0
        assert capsys.readouterr() == (f"{out}\n", "") and out.stat().st_size > 2000
    text = out.read_text("utf-8")
    assert (f"phosphene show {argv[0]}" in text and "weights" in text) or "tiny (" in text
    if "--seed" in argv:
        assert "seed 4" in text or "seeds 4" in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["flim"], "did you mean 'film'"),
        (["film", "a", "b"], "2 prompts"),
        (["film", "a", "--out", "x.jpg"], "x.jpg"),
        (["film", "--data", "scenes:n=2", "--row", "9"], "row 9"),
        (["film", "--data", "scenes", "--picture", "x.png"], "one of the two"),
        (["film", "fox", "--columns", "1"], "columns=1"),
        (["film", "fox", "--colums", "3"], "--columns"),
        (["words"], "0 prompts"),
        (["words", "fox", "--guidance", "0"], "guidance=0"),
        (["guidance"], "towards a prompt"),
        (["levels"], "--data SPEC"),
    ],
)
def test_bad_input_is_one_line(argv, says, tiny_model, capsys):
    model = [str(tiny_model)] if argv[0] == "levels" else ["--model", str(tiny_model)] if argv[0] != "flim" else []
    assert main(["show", *argv, *model]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err


def test_the_page_shows_commands_that_can_be_typed():
    page = (Path(__file__).resolve().parents[2] / "docs/views.md").read_text("utf-8").replace("\\\n", " ")
    calls = re.findall(r"^(?: {4})?phosphene show (.+)$", page, re.MULTILINE)
    assert len(calls) > 10
    for what, *argv in (shlex.split(call, comments=True) for call in calls):
        parse(argv, what, VIEWS[what], place)
    for picture in re.findall(r"\((pictures/[\w-]+\.png)\)", page):
        with Image.open(Path(__file__).resolve().parents[2] / "docs" / picture) as image:
            assert "phosphene show" in json.loads(image.text[KEY])["command"]


def test_help_names_the_views(capsys):
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in ("film", "words", "guidance", "levels"))
