"""Pictures of the test set that are in the training set, too."""

from __future__ import annotations

from .finding import Finding
from .patient import Patient
from .table import SAME, copies, table

NAME = "test pictures not among the training's"
SHARE = 0.03  # of the test set; a few of simple pictures are there by chance (CIFAR-10 has 3.3 %)


def applies(patient: Patient) -> bool:
    return patient.source is not None and patient.test is not None and len(patient.table) > 0


def check(patient: Patient) -> Finding | None:
    seen, held = patient.table, table(patient.test, patient.look)
    equal, near = copies(seen, held)
    found = {**near, **equal}
    share = len(found) / max(1, len(held)) / seen.share
    fewest = 3 if seen.share == 1 else 10  # of a sample, so few that a share can be told
    if len(found) < min(fewest, len(held)) or share < SHARE:
        return None
    shown = [f"{held.rows[b]} is row {seen.rows[a]}" for b, a in list(found.items())[:3]]
    about = (
        ""
        if seen.share == 1
        else f", so about {min(1.0, share):.0%} in all, as {seen.share:.0%} of the data was looked at"
    )
    return Finding(
        f"Of {len(held):,} test pictures {len(equal)} are equal to one of the training set and {len(near)} differ "
        "by less "
        f"than {SAME:g} levels of 255 in a thumbnail{about}: test row {', test row '.join(shown)}.",
        "A score on pictures that were trained on says how well they were learned by heart.",
        "Take those rows out of the training set, and train again before any score is believed.",
        {"equal": len(equal), "near": len(near), "test": len(held), "share": min(1.0, share)},
    )
