"""What the READMEs say is so: their commands can be typed, their files are there, and both say the same."""

from __future__ import annotations

import ast
import functools
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
from phosphene.recipes import RECIPES
from phosphene.studies import STUDIES

PROJECT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "README.zh-CN.md"]
LINEAGE = ["docs/lineage.md", *(f"docs/lineage/{page.name}" for page in (PROJECT / "docs/lineage").glob("*.md"))]
TOLD = ["docs/editing.md", "docs/checkpoints.md", "docs/guidance.md", *sorted(LINEAGE)]
COMMANDS = {"evaluate": (evaluate,), "compare": (compare,), "inspect": (inspect,), "list": (show,), "data": (data,)}
COMMANDS |= {"doctor": (doctor,), "replay": (replay,), "study": (study,)}
COMMANDS |= {"generate": (generate, *SHARED), "edit": (edit, *SHARED), "convert": (convert,)}


def blocks(page: str, language: str) -> list[str]:
    text = (PROJECT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for said, code in fenced if said == language]


def indented(page: str) -> list[str]:
    """What stands four spaces in: commands and equations. What follows a command, further to the right, is about it."""
    lines = re.findall(r"^    (\S.*)$", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [re.split(r" {3,}", line)[0] for line in lines]


def commands(page: str) -> list[list[str]]:
    """Every call of phosphene that stands in a page by itself, as words."""
    lines = [*"".join(blocks(page, "sh")).splitlines(), *indented(page)]
    calls = [part for line in lines for part in line.split("&&") if part.strip().startswith("phosphene ")]
    return [shlex.split(call, comments=True)[1:] for call in calls]


@pytest.mark.parametrize("page", [*PAGES, *TOLD])
def test_every_command_can_be_typed(page):
    calls = commands(page)
    assert len(calls) > 8 or page not in PAGES
    for name, *argv in calls:
        if name == "show":
            options.parse(argv[1:], name, VIEWS[argv[0]], place)
        elif name == "study":
            assert set(argv[:1]) <= STUDIES.keys()
            options.parse(argv, name, study)
        elif name != "train":
            options.parse(argv, name, *COMMANDS[name])
        elif not argv[0].endswith(":mine") and "--help" not in argv:
            options.parse(argv[1:], name, find(argv[0]), _run)


@functools.cache
def code() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What is named in each file, by its path in the package, and in each class, with what it inherits."""
    files, classes, bases = {}, {}, {}
    for path in (PROJECT / "src/phosphene").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        files[path.relative_to(PROJECT / "src/phosphene").as_posix()] = named(tree)
        for it in ast.walk(tree):
            if isinstance(it, ast.ClassDef):
                classes[it.name] = classes.get(it.name, set()) | named(it)
                bases[it.name] = {base.id for base in it.bases if isinstance(base, ast.Name)}
    return files, {name: its.union(*(classes.get(base, ()) for base in bases[name])) for name, its in classes.items()}


def named(tree: ast.AST) -> set[str]:
    """Functions, classes, fields and variables in it."""
    kinds = {ast.FunctionDef: "name", ast.ClassDef: "name", ast.Name: "id", ast.Attribute: "attr"}
    return {getattr(it, kinds[type(it)]) for it in ast.walk(tree) if type(it) in kinds}


@pytest.mark.parametrize("page", sorted(["docs/guidance.md", *LINEAGE]))
def test_where_a_page_says_that_something_is_it_is(page):
    """Files, tests, recipes and studies; Class.method; what is said to be in a file."""
    text, (files, classes) = (PROJECT / page).read_text(encoding="utf-8"), code()
    for file in re.findall(r"(?<![\w/])(\w+(?:/\w+)*\.py)\b", text):
        beside = ["", "src/phosphene/", "src/phosphene/systems/", "src/phosphene/diffusion/"]
        assert any((PROJECT / room / file).is_file() for room in beside), f"{page}: {file}"
    for cls, name in re.findall(r"\b([A-Z]\w+)\.([a-z_]\w*)\b", text):
        assert cls not in classes or name in classes[cls], f"{page}: {cls}.{name}"
    for file, names in re.findall(r"`(\w+/[\w/]+\.py)`:? ?((?:`\w+`(?:, )?)+)", text):
        (its,) = (found for path, found in files.items() if path.endswith(file))
        assert set(re.findall(r"\w+", names)) <= its, f"{page}: {names} in {file}"
    for test in re.findall(r"`(test_\w+)`", text):
        assert any(f"def {test}(" in it.read_text(encoding="utf-8") for it in (PROJECT / "tests").rglob("test_*.py"))
    for recipe in re.findall(r"`((?:scenes|mnist|emoji|cifar10)\.\w+)`", text):
        assert recipe in RECIPES, f"{page}: {recipe}"


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_use_what_is_there(page):
    [code] = blocks(page, "python")
    compile(code, page, "exec")
    for name in re.findall(r"phosphene\.(\w+)\(", code):
        assert name in phosphene.__all__


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", *TOLD])
def test_links_lead_somewhere(page):
    here = (PROJECT / page).parent
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (PROJECT / page).read_text(encoding="utf-8")):
        assert (here / target).exists(), f"{page} links to {target}"


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
