"""Studies: a question, runs that are reused, a plot and a table for an answer. `phosphene study NAME`.

Importing this imports no torch.
"""

from __future__ import annotations

import importlib

from phosphene.errors import unknown
from phosphene.studies.base import Found, Job, Need, Study

STUDIES: dict[str, str] = {}  # name -> the module that holds its `STUDY`


def study(name: str) -> Study:
    """The study of this name. Raises Problem for another."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return importlib.import_module(STUDIES[name]).STUDY


__all__ = ["STUDIES", "Found", "Job", "Need", "Study", "study"]
