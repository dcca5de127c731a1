"""The command line: what it prints, what it leaves on the disk, and how it says no."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from phosphene import receipt
from phosphene.cli import COMMANDS, main
from phosphene.errors import Problem


@pytest.fixture
def told(capsys):
    """Runs a command line: (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(told):
    """Runs a command line that has to end with one line on stderr, no traceback, and exit code 2; gives the line."""

    def run(*argv: object) -> str:
        code, _, err = told(*argv)
        assert code == 2 and err.count("\n") == 1 and err.startswith("phosphene: "), err
        return err

    return run


# generate -----------------------------------------------------------------------------------------------------------


def test_prompts_and_seeds_are_one_batch_of_pictures(told, tiny_model, tmp_path):
    code, out, err = told(
        "generate", "fox", "pizza", "--seed", 4, 5, "--out", tmp_path, "--model", tiny_model, "--steps", 2
    )
    assert (code, err) == (0, "")
    assert out.split() == [str(tmp_path / "fox-4.png"), str(tmp_path / "pizza-5.png")]
    told_of = receipt.read(tmp_path / "pizza-5.png")
    assert told_of.items() >= {"prompt": "pizza", "seed": 5, "steps": 2, "sampler": "dpmpp_2m", "model": "tiny"}.items()
    assert told_of["size"] == {"width": 16, "height": 16} and len(told_of["weights"]) == 12
    assert set(told_of["versions"]) == {"phosphene", "torch", "python"}


def test_the_receipt_makes_the_picture_again(told, tiny_model, tmp_path):
    told("generate", "狐狸", "--seed", 4, "--out", tmp_path / "a.png", "--model", tiny_model, "--guidance", 2)
    r = receipt.read(tmp_path / "a.png")
    line = ["generate", r["prompt"], "--seed", r["seed"], "--steps", r["steps"], "--sampler", r["sampler"]]
    told(*line, "--guidance", r["guidance"], "--model", tiny_model, "--out", tmp_path / "b.png")
    a, b = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "b.png")
    assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_picture_never_overwrites_another(told, tiny_model, tmp_path):
    line = ["generate", "狐狸", "--seed", 4, "--out", tmp_path, "--model", tiny_model, "--steps", 1]
    told(*line), told(*line)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["狐狸-4-2.png", "狐狸-4.png"]


def test_options_reach_the_picture(told, tiny_model, tmp_path):
    line = ["generate", "fox", "--seed", 4, "--model", tiny_model]
    variants = [
        [],
        ["--steps", 5],
        ["--sampler", "euler"],
        ["--spacing", "leading"],
        ["--guidance", 9],
        ["--negative", "pizza"],
        ["--size", "24x8"],
        ["--seed", 5],
    ]
    pictures = set()
    for i, variant in enumerate(variants):
        code, _, err = told(*line, *variant, "--out", tmp_path / f"{i}.png")
        assert code == 0, err
        pictures.add(Image.open(tmp_path / f"{i}.png").tobytes())
    assert len(pictures) == len(variants)
    assert Image.open(tmp_path / "6.png").size == (24, 8)


def test_a_grid_is_one_file_that_tells_of_all(told, tiny_model, tmp_path):
    told("generate", "fox", "-n", 3, "--seed", 1, "--grid", "--out", tmp_path, "--model", tiny_model, "--steps", 1)
    [path] = tmp_path.iterdir()
    assert [r["seed"] for r in receipt.read(path)] == [1, 2, 3]
    assert Image.open(path).width > 2 * 16


def test_a_prompt_outside_the_vocabulary_is_told_and_drawn(told, tiny_model, tmp_path):
    code, out, err = told("generate", "combine harvester", "--out", tmp_path, "--model", tiny_model, "--steps", 1)
    assert code == 0 and out.count(".png") == 1
    assert err.count("\n") == 1 and "'combine harvester' is outside the vocabulary of tiny" in err


def test_generate_says_what_cannot_be(refused, tiny_model, tmp_path):
    line = ["generate", "fox", "--model", tiny_model, "--out", tmp_path / "out"]
    assert "steps=0" in refused(*line, "--steps", 0)
    assert "did you mean 'dpmpp_2m'" in refused(*line, "--sampler", "dpmpp2m")
    assert "'many', where a whole number was expected" in refused(*line, "--steps", "many")
    assert "did you mean '--steps'" in refused(*line, "--stesp", 3)
    assert "multiples of 2 pixels" in refused(*line, "--size", 17)
    assert "size '12y4'" in refused(*line, "--size", "12y4")
    assert "3 prompts and 2 seeds" in refused(*line, "--seed", 1, 2, "--steps", 2, "pizza", "cat")
    assert "n=0" in refused(*line, "-n", 0)
    assert "a.jpg" in refused(*line, "--out", tmp_path / "a.jpg")
    assert "is one file" in refused(*line, "-n", 2, "--out", tmp_path / "a.png")
    assert "is a folder without a model" in refused(*line, "--model", tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(*line, "--out", tmp_path / "file")
    (tmp_path / "page.safetensors").write_text("<!doctype html><title>Not found</title>")
    assert "web page" in refused(*line, "--model", tmp_path / "page.safetensors")
    (tmp_path / "short.safetensors").write_bytes(tiny_model.read_bytes()[:-100])
    assert "truncated" in refused(*line, "--model", tmp_path / "short.safetensors")
    assert not (tmp_path / "out").exists()


# train --------------------------------------------------------------------------------------------------------------

RECIPE = '''
from dataclasses import dataclass
from phosphene.errors import Problem
from phosphene.training.loop import Progress

@dataclass
class Run:
    width: int
    def train(self, out, resume):
        if self.width == 13:
            raise Problem("width=13: an even number was expected")
        if self.width == 99:
            raise KeyboardInterrupt
        for step in (1, 2):
            notes = ("a note",)[: 2 - step]
            yield Progress(step, 2, 1e-3, step, 1.0, 5.0, 0.5, {"loss/model": 0.25}, logged=True, notes=notes)
        out.mkdir(parents=True)
        (out / "told.txt").write_text(f"{self.width} {resume}")

def mine(width: int = 4):
    """A recipe of one's own.

    width  how wide
    """
    return Run(width)
'''


def test_a_recipe_of_ones_own_is_trained(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_recipe.py").write_text(RECIPE)
    code, out, err = told("train", "my_recipe.py:mine", "--width", 6, "--resume")
    assert code == 0, err
    assert (tmp_path / "runs/mine/told.txt").read_text() == "6 True"
    assert out.split() == ["runs/mine/model.safetensors"] and "a note" in err and "2/2  loss 0.2500" in err
    told("train", "my_recipe.py:mine", "--out", "elsewhere")
    assert (tmp_path / "elsewhere/told.txt").read_text() == "4 False"


def test_train_says_what_cannot_be(refused, told, tmp_path):
    file = tmp_path / "my_recipe.py"
    file.write_text(RECIPE)
    assert "did you mean 'scenes.latent'" in refused("train", "scenes.latnt")
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in refused("train", "scenes.autoencoder", "--data", tmp_path / "empty")
    assert "steps=0" in refused("train", "scenes.latent", "--steps", 0, "--out", tmp_path / "run")
    assert "did you mean 'mine'" in refused("train", f"{file}:mien")
    assert "is not there" in refused("train", f"{tmp_path}/none.py:mine")
    assert "did you mean '--width'" in refused("train", f"{file}:mine", "--widht", 3)
    assert "an even number" in refused("train", f"{file}:mine", "--width", 13, "--out", tmp_path / "run")
    code, _, err = told("train", f"{file}:mine", "--width", 99, "--out", tmp_path / "run")
    assert code == 130 and "--resume goes on" in err


def test_every_recipe_has_help_and_a_summary(told, capsys):
    from phosphene.recipes import RECIPES

    code, out, _ = told("train", "--help")
    assert code == 0
    for name in RECIPES:
        [line] = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 3, f"{name} says nothing of itself"
        with pytest.raises(SystemExit):
            main(["train", name, "--help"])
        assert f"usage: phosphene train {name}" in capsys.readouterr().out


# inspect, list, data ------------------------------------------------------------------------------------------------


def test_inspect_shows_parts_types_vocabulary_and_card(told, tiny_model):
    code, out, _ = told("inspect", tiny_model)
    assert code == 0
    for word in ["Latent", "denoiser.net", "UNet", "BF16", "tokens>", "knows 2 names: fox, pizza", "of no use"]:
        assert word in out
    assert "of no use" not in told("inspect", tiny_model, "--no-card")[1]


def test_inspect_says_how_a_picture_was_made(told, refused, tiny_model, tmp_path):
    """Its receipt and the web UI's parameters; of other programs' pictures what there is."""
    told("generate", "狐狸", "--seed", 4, "--out", tmp_path / "a.png", "--model", tiny_model, "--steps", 2)
    code, out, err = told("inspect", tmp_path / "a.png")
    assert (code, err) == (0, "") and "made by Phosphene" in out and '"height": 16' in out
    assert "  狐狸\n  Steps: 2, Sampler: DPM++ 2M, " in out
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    assert "does not say" in told("inspect", tmp_path / "b.jpg")[1]
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    assert "c.png" in refused("inspect", tmp_path / "c.png")


def test_inspect_says_what_cannot_be(refused, tmp_path):
    (tmp_path / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(range(60)))
    assert "truncated or damaged" in refused("inspect", tmp_path / "old.ckpt")
    assert "No such file" in refused("inspect", tmp_path / "none.safetensors")
    assert "FILE" in refused("inspect")


def test_list_has_a_line_for_everything(told):
    from phosphene.diffusion.samplers import SAMPLERS

    code, out, _ = told("list")
    assert code == 0
    for name in ["Ddpm", "Latent", "ClipSystem", "AutoencoderSystem", *SAMPLERS]:
        [line] = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 1
    assert told("list", "samplers")[1].splitlines()[0] == "samplers:"


def test_list_says_what_cannot_be(refused):
    assert "did you mean 'recipes'" in refused("list", "recipe")


def test_data_reports_and_draws_a_sheet(told, tmp_path):
    for i, caption in enumerate(["a red square", "一个红色方块"]):
        Image.new("RGB", (20, 10), "red").save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    (tmp_path / "2.png").write_bytes(b"broken")
    code, out, err = told("data", tmp_path, "--out", tmp_path / "sheets" / "sheet.png")
    assert code == 0, err
    assert "3 pictures" in out and "20x10 (2)" in out and "broken: 1" in out and "2.png" in out and "红色方块" in out
    assert Image.open(tmp_path / "sheets" / "sheet.png").width > 100


def test_data_says_what_cannot_be(refused, tmp_path):
    assert "no data at" in refused("data", tmp_path / "none")
    assert str(tmp_path) in refused("data", tmp_path), "an empty folder"
    assert "did you mean 'size'" in refused("data", "scenes:sice=3")
    assert ".png" in refused("data", "scenes", "--out", "sheet.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_never_ends_is_not_read(refused, tiny_model, tmp_path):
    """A pipe that nobody writes to, in every place of a file."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for words in (
        ["inspect", pipe],
        ["convert", pipe, tmp_path / "out"],
        ["generate", "--model", pipe],
        ["generate", "--model", tiny_model, "--lora", pipe],
        ["generate", "--model", tiny_model, "--vae", pipe],
        ["generate", "--model", tiny_model, "--embedding", pipe],
        ["edit", pipe, "--model", tiny_model],
    ):
        assert "a file was expected" in refused(*words)
    with pytest.raises(Problem, match="a file was expected"):
        receipt.read(pipe)


# the rest of it -----------------------------------------------------------------------------------------------------


def test_help_names_every_command(told):
    code, out, _ = told()
    assert code == 0 and all(f"  {name}" in out for name in COMMANDS)
    assert told("--version")[1].startswith("phosphene ")


def test_unknown_commands_suggest_the_nearest(refused):
    assert "did you mean 'generate'" in refused("generat")
    assert "unknown command" in refused("--frobnicate")


def test_a_missing_extra_says_the_line_to_type(refused, monkeypatch):
    import phosphene.cli.list

    def lacking(argv):
        raise ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")

    monkeypatch.setattr(phosphene.cli.list, "main", lacking)
    assert "pip install 'phosphene[train]'" in refused("list")


def test_too_little_memory_says_what_takes_less(refused, monkeypatch):
    import torch

    import phosphene.cli.list

    monkeypatch.setattr(phosphene.cli.list, "main", lambda argv: torch.empty(2**55))
    assert "out of memory: a smaller --size" in refused("list")


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    import phosphene.cli.list

    def mistaken(argv):
        raise ValueError("ours")

    monkeypatch.setattr(phosphene.cli.list, "main", mistaken)
    with pytest.raises(ValueError, match="ours") as caught:
        main(["list"])
    assert not isinstance(caught.value, Problem)


def test_a_broken_pipe_is_quiet():
    command = (
        f"{sys.executable} -c 'import time; from phosphene.cli import main; time.sleep(.3); raise SystemExit(main([]))'"
    )
    done = subprocess.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stdout.strip() == "141" and done.stderr == ""


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text("import time\ndef slow():\n    '''Slow.'''\n    print('ready', flush=True)\n    time.sleep(30)\n")
    command = [sys.executable, "-m", "phosphene", "train", f"{file}:slow"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.stdout.readline() == "ready\n"
    time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=10)
    assert run.returncode == 130 and err == "phosphene: stopped\n"
