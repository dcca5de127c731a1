"""Writes docs/doctor.md from what the doctor says of the planted faults: python tests/doctor/page.py"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
HEAD = """\
# The doctor

    phosphene doctor runs/mine                       # a run's folder, finished or not
    phosphene doctor scenes.latent --width 96        # a recipe with its knobs: built, a few batches looked at, not trained
    phosphene doctor "photos:caption=title"          # a data spec
    phosphene doctor runs/mine --json                # the same for programs, with all numbers

It looks for the usual faults by measurement: what it saw, why that is wrong, what to change. The exit code is 0 where
nothing was found, 1 where something was, 2 where it could not look. It changes nothing of what it looks at, and takes
10 to 30 seconds on one core for the runs and recipes of this project.

| option | |
|---|---|
| `--data SPEC` | of a run: its data, where that is no longer where `settings.json` says |
| `--test SPEC` | pictures that must not be among the training's; else the data's other split (`split=test`, `val`, …; `photos/test` beside `photos/train`) is taken by itself |
| `--look N` | rows of data to look at, evenly spread; 4,000 |

In Python:

```python
from phosphene import doctor

for one in doctor.examine(doctor.of_run("runs/mine")):
    print(one.name, one.finding)          # a Finding (seen, wrong, change, numbers), or None
```

Each fault is one file in `src/phosphene/doctor/`, with `NAME`, `applies(patient)` and `check(patient)`; a new one is a file
and its line in `FAULTS`.

## What it cannot see

It looks at samples: a fault in one row of a thousand passes. A rate that is a few times too high or too low passes too, since
sound runs differ by as much; so do fewer than 3 % of leaked and 5 % of doubled pictures, as simple pictures are alike by
chance. Words and pictures that have nothing to do with colour and layout look shuffled to the probe of data alone; a run is asked
itself once it is half done. A model that was hardly trained is not asked what it predicts. Of a run without its bundle the system is built
again by the recipe that the folder is named after; where there is none, its checkpoints and data are looked at alone.
A CLIP's loss tells each pair from all others of a step, so it is measured, and tried with other rates, with the pairs of a whole
step, 256 at most: of larger steps the losses that are told here are lower than those of the log.

What follows is what it says of faults that its tests plant; `python tests/doctor/page.py` writes this page.
"""  # noqa: E501


class Collect:
    """Takes what was found before the tests' modules are gone."""

    def pytest_sessionfinish(self, session) -> None:
        from doctor.sick import FOUND

        self.found = dict(FOUND)


def main() -> int:
    collect = Collect()
    code = pytest.main([str(HERE.parent / "test_doctor.py"), "-q", "-k", "not page"], plugins=[collect])
    if code:
        return int(code)
    from phosphene import doctor

    page = [HEAD]
    for fault in doctor.FAULTS:
        theory = fault.__doc__.strip()
        page.append(f"## {fault.NAME}\n\n{theory}\n")
        said = {finding.wrong: finding for finding in reversed(collect.found[fault.__name__.rpartition(".")[2]])}
        for finding in reversed(said.values()):
            for title, text in (("seen", finding.seen), ("wrong", finding.wrong), ("change", finding.change)):
                page.append(
                    textwrap.fill(f"**{title}** {text}", 120, initial_indent="> ", subsequent_indent="> ") + "\n>"
                )
            page[-1] = page[-1].removesuffix("\n>") + "\n"
    (HERE.parents[2] / "docs" / "doctor.md").write_text("\n".join(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
