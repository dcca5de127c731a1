"""Parts of the network that get no gradient: cut off, or frozen by mistake.

Parameters of a turn are trained for a few steps on a copy, since layers that start at zero hide what is behind them
for a step or two. What then never had a gradient cannot learn.
"""

from __future__ import annotations

from .finding import Finding
from .patient import Patient
from .probe import probe

NAME = "gradients everywhere"
SHARE = 0.01  # of the trained numbers: an unused token or two is no fault


def applies(patient: Patient) -> bool:
    return patient.system is not None and patient.data is not None and patient.settings is not None


def check(patient: Patient) -> Finding | None:
    norms = probe(patient).norms
    sizes = {name: p.numel() for name, p in patient.parameters.items()}
    dead = [name for name, norm in norms.items() if norm == 0]
    share = sum(sizes.get(name, 0) for name in dead) / max(1, sum(sizes.values()))
    if share < SHARE:
        return None
    return Finding(
        f"{len(dead)} of {len(norms)} trained tensors, {share:.1%} of the numbers, get no gradient at all: "
        f"{_named(dead)}.",
        "What gets no gradient stays as it was at first, and the rest learns to live with it.",
        "Look for a detach(), a no_grad() or a branch that is never taken between them and the loss; if they are "
        "meant to "
        "be fixed, freeze them (systems.base.frozen), so that nobody thinks they are trained.",
        {"tensors": len(dead), "share": share},
    )


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
