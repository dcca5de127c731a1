"""Studies: a question, runs that are reused, a plot and a table for an answer. `phosphene study NAME`.

Importing this imports no torch.
"""

from __future__ import annotations

import importlib

from phosphene.errors import unknown
from phosphene.studies.base import Found, Job, Need, Study

STUDIES: dict[str, str] = {
    "prediction": "phosphene.studies.prediction",
    "noise": "phosphene.studies.noise",
    "variance": "phosphene.studies.variance",
    "ema": "phosphene.studies.ema",
    "ancestors": "phosphene.studies.ancestors",
    "samplers": "phosphene.studies.samplers",
    "guidance": "phosphene.studies.guidance",
    "strength": "phosphene.studies.strength",
    "decoders": "phosphene.studies.decoders",
    "latents": "phosphene.studies.latents",
    "sizes": "phosphene.studies.sizes",
    "levels": "phosphene.studies.levels",
    "threshold": "phosphene.studies.threshold",
    "priors": "phosphene.studies.priors",
}  # name -> the module that holds its `STUDY`


def study(name: str) -> Study:
    """The study of this name. Raises Problem for another."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return importlib.import_module(STUDIES[name]).STUDY


__all__ = ["STUDIES", "Found", "Job", "Need", "Study", "study"]
