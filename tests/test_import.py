"""What starting costs: importing the package, and the help."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import phosphene


def python(code: str, *args: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


def spent() -> float:
    """Seconds that finished child processes have calculated: unlike the clock's, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_importing_is_quick_and_brings_no_torch():
    code = """if True:
        import sys, time
        start = time.process_time()
        import phosphene
        print(time.process_time() - start, "torch" in sys.modules, "numpy" in sys.modules)"""
    seconds, *brought = python(code).split()
    assert float(seconds) < 0.1
    assert brought == ["False", "False"]


@pytest.mark.parametrize("argv", [["--help"], ["generate", "--help"], ["train", "--help"], ["list", "--help"]])
def test_help_is_quick_and_brings_no_torch(argv):
    code = """if True:
        import sys
        from phosphene.cli import main
        try:
            main(sys.argv[1:])
        except SystemExit:
            pass
        print("torch" in sys.modules)"""
    before = spent()
    out = python(code, *argv)
    seconds = spent() - before
    assert out.splitlines()[-1] == "False" and "usage: phosphene" in out
    assert seconds < 0.4


def test_public_names_are_there():
    for name in phosphene.__all__:
        assert getattr(phosphene, name) is not None and name in dir(phosphene)
    with pytest.raises(AttributeError, match="nosuch"):
        phosphene.nosuch  # noqa: B018
