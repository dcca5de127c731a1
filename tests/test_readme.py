"""What the READMEs say is so: their commands can be typed, their files are there, and both say the same."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import phosphene
from phosphene.cli import options
from phosphene.cli.compare import compare
from phosphene.cli.convert import convert
from phosphene.cli.data import data
from phosphene.cli.doctor import doctor
from phosphene.cli.edit import edit
from phosphene.cli.evaluate import evaluate
from phosphene.cli.generate import generate
from phosphene.cli.inspect import inspect
from phosphene.cli.list import show
from phosphene.cli.making import SHARED
from phosphene.cli.replay import replay
from phosphene.cli.show import VIEWS, place
from phosphene.cli.study import run as study
from phosphene.cli.train import _run, find

PROJECT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "README.zh-CN.md"]
COMMANDS = {"evaluate": (evaluate,), "compare": (compare,), "inspect": (inspect,), "list": (show,), "data": (data,)}
COMMANDS |= {"doctor": (doctor,), "replay": (replay,), "study": (study,)}
COMMANDS |= {"generate": (generate, *SHARED), "edit": (edit, *SHARED), "convert": (convert,)}


def blocks(page: str, language: str) -> list[str]:
    text = (PROJECT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for said, code in fenced if said == language]


def commands(page: str) -> list[list[str]]:
    """Every call of phosphene in a page's shell blocks, as words."""
    lines = "".join(blocks(page, "sh")).splitlines()
    calls = [part for line in lines for part in line.split("&&") if part.strip().startswith("phosphene ")]
    return [shlex.split(call, comments=True)[1:] for call in calls]


@pytest.mark.parametrize("page", [*PAGES, "docs/editing.md", "docs/checkpoints.md"])
def test_every_command_can_be_typed(page):
    calls = commands(page)
    assert len(calls) > 8
    for name, *argv in calls:
        if name == "show":
            options.parse(argv[1:], name, VIEWS[argv[0]], place)
        elif name != "train":
            options.parse(argv, name, *COMMANDS[name])
        elif not argv[0].endswith(":mine") and "--help" not in argv:
            options.parse(argv[1:], name, find(argv[0]), _run)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_use_what_is_there(page):
    [code] = blocks(page, "python")
    compile(code, page, "exec")
    for name in re.findall(r"phosphene\.(\w+)\(", code):
        assert name in phosphene.__all__


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (PROJECT / page).read_text(encoding="utf-8")):
        assert (PROJECT / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_the_tree_is_the_tree(page):
    [tree] = blocks(page, "")
    rooms = re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)
    there = {p.name for p in (PROJECT / "src/phosphene").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert there <= set(rooms) <= there | {"models"}  # which come with a release
    for name in re.findall(r"^(\w+)/ ", tree, re.MULTILINE):
        assert (PROJECT / name).is_dir()


def test_both_pages_say_the_same():
    english, chinese = (
        [[word for word in call if re.fullmatch(r"[\x21-\x7e]+", word)] for call in commands(page)] for page in PAGES
    )
    options_of = [[[w for w in call if w.startswith("-")] for call in calls] for calls in (english, chinese)]
    assert options_of[0] == options_of[1]
    assert [call[0] for call in english] == [call[0] for call in chinese]


def test_ci_runs_the_two_commands_of_the_page():
    """`.ci/run` runs the very lines that a reader types."""
    script = (PROJECT / ".ci/run").read_text(encoding="utf-8")
    first, second = (line for block in blocks("README.md", "sh")[:2] for line in block.splitlines())
    assert f"picture='{first}'" in script and f"tests='{second}'" in script


def test_constraints_name_every_dependency():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {line.split("==")[0].lower() for line in (PROJECT / "constraints.txt").read_text().splitlines()}
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)[0].lower()
        assert name == "phosphene" or name in pinned, f"{name} is not pinned in constraints.txt"
    assert project["version"] == phosphene.__version__
