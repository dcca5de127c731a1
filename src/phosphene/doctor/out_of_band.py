"""A run whose loss, gradient norm or score leaves the band of its recipe (docs/bands.md).

The band is where three seeds or more of the recipe lay, step by step. Only a run of the recipe's own settings is held
against it.
"""

from __future__ import annotations

from pathlib import Path

from ..training import band
from .finding import Finding
from .patient import Patient

NAME = "in the band of its recipe"


def applies(patient: Patient) -> bool:
    if patient.kind != "run" or not patient.lines:
        return False
    known, differs = band.of_run(Path(patient.name))
    return known is not None and not differs


def check(patient: Patient) -> Finding | None:
    known, _ = band.of_run(Path(patient.name))
    assert known is not None
    lines = list(patient.lines)
    outside: dict[str, list[tuple[int, band.Place]]] = {}
    for i in range(len(lines)):
        for name, place in known.places(lines[: i + 1]).items():
            if place.where != "in":
                outside.setdefault(name, []).append((lines[i]["step"], place))
    if not outside:
        return None
    said = []
    for name, places in outside.items():
        (first, _), (last, place) = places[0], places[-1]
        when = f"at step {last}" if first == last else f"at {len(places)} lines of the log from step {first} to {last}"
        said.append(f"{name} is outside {when}, there at {place.value:.3g}, {place}")
    means = dict.fromkeys(band.MEANS[name.partition("/")[0], places[-1][1].where] for name, places in outside.items())
    return Finding(
        "; ".join(said) + ".",
        f"{known} lay otherwise. It may mean that {'; that '.join(means)}.",
        "Look at the other findings first, then at what is not as in the recipe's own runs: data, versions, code.",
        {name: float(len(places)) for name, places in outside.items()},
    )
