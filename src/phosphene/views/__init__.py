"""Pictures to understand with: film strips, attention to words, the pull of guidance, loss by noise level, meanings.

    from phosphene import views

    views.film("a fox", seed=7)                               # a View: a notebook shows it
    views.words("a 3D fox", seed=7).save("words.html")
    views.guidance(["a fox", "pizza"], seed=7, model="runs/mine")
    views.levels(["emoji", "runs/mine"], data="photos:caption=title").numbers
    views.meanings([views.row("scenes", 3), "my.png"], model="runs/scenes.unclip_upscale")

Each takes `model=`: a name, a file, a run's folder, a Studio or a system in memory; the shipped one if not given.
"""

from .film import film, row
from .guidance import guidance
from .levels import levels
from .meanings import meanings
from .page import View
from .recorder import recording
from .words import words

__all__ = ["View", "film", "guidance", "levels", "meanings", "recording", "row", "words"]
