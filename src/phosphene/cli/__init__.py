"""The command line: `phosphene COMMAND …`. One file a command, imported when it is called; none imports torch on top.

What a user can cause is one line on stderr and exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from phosphene import __version__
from phosphene.errors import Assumed, Problem, unknown

COMMANDS = {
    "generate": 'make pictures of words: phosphene generate "a smiling cat"',
    "edit": 'make pictures of a picture: phosphene edit cat.png "a smiling fox" --strength 0.6',
    "replay": "make a picture again from what it carries, and compare: phosphene replay cat.png",
    "show": 'pictures to understand a model with: phosphene show film "a fox"',
    "train": "train a recipe, from nothing: phosphene train scenes.latent",
    "evaluate": "how good a model's pictures are: phosphene evaluate MODEL --data SPEC",
    "compare": "runs side by side on one page: phosphene compare runs/one runs/two --data SPEC",
    "study": "a question answered by measurement, on runs that are reused: phosphene study guidance",
    "inspect": "what a model file holds: phosphene inspect FILE",
    "convert": "a model in another format: phosphene convert sd.ckpt folder --to diffusers",
    "list": "the systems, recipes, samplers and shipped models",
    "doctor": "the usual faults of a run, a recipe or data, by measurement: phosphene doctor runs/mine",
    "data": "what a data spec contains, as a contact sheet: phosphene data scenes --out sheet.png",
}
EXTRAS = {  # packages that not every command needs, and the extra that brings them
    **dict.fromkeys(["accelerate", "datasets", "emoji", "pyarrow", "tensorboard"], "train"),
    **dict.fromkeys(["google", "sentencepiece", "transformers"], "encoders"),
    **dict.fromkeys(["diffusers", "peft", "pytest", "scipy"], "test"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    warnings.showwarning = _warn
    try:
        code = _run([*(sys.argv[1:] if argv is None else argv)])  # not list(): that may be the command of this name
        sys.stdout.flush()
        return code
    except Problem as problem:
        return _say(str(problem))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _say(f"this needs {error.name}, which is not installed: pip install 'phosphene[{extra}]'")
    except BrokenPipeError:  # whoever read us has left; nothing more may be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        return _say("out of memory: a smaller --size, a smaller -n, --precision bf16, --tile or --offload take less")
    except KeyboardInterrupt:
        _say("stopped")
        return 130


def _run(argv: list[str]) -> int:
    """The exit code: 0, or what the command returned."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_help())
    elif command in ("-V", "--version"):
        print(f"phosphene {__version__}")
    elif command in COMMANDS:
        return importlib.import_module(f"phosphene.cli.{command}").main(rest) or 0
    else:
        raise unknown("command", command, COMMANDS)
    return 0


def _is_lack_of_memory(error: Exception) -> bool:
    """Python's own error, that of GPUs, or torch's of the processor's memory, which has no class."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in str(error)


def _warn(message, category, filename, lineno, file=None, line=None) -> None:
    """What a checkpoint leaves open is a note for the user; other warnings are as Python prints them."""
    if issubclass(category, Assumed):
        print(f"note: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _help() -> str:
    lines = [f"  {name:10s}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: phosphene COMMAND …",
            "",
            "Pictures out of noise: text-to-image systems, trained from scratch and sampled by the same few parts.",
            "",
            *lines,
            "",
            "`phosphene COMMAND --help` says more of one. `phosphene --version` says which this is.",
        ]
    )


def _say(line: str) -> int:
    print(f"phosphene: {' '.join(line.split())}", file=sys.stderr)
    return 2
