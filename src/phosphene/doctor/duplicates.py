"""Pictures that are in the data more than once: equal to the last pixel, or as good as."""

from __future__ import annotations

from .finding import Finding
from .patient import Patient
from .table import SAME, copies

NAME = "pictures only once"
SHARE = 0.05  # of the rows; a few of simple pictures are alike by chance


def applies(patient: Patient) -> bool:
    return patient.source is not None and len(patient.table) > 1


def check(patient: Patient) -> Finding | None:
    found = patient.table
    equal, near = copies(found)
    # of a sample only so many copies are seen as both of a pair are in it
    share = (len(equal) + len(near)) / len(found) / found.share
    fewest = 3 if found.share == 1 else 10  # of a sample, so few that a share can be told
    if len(equal) + len(near) < fewest or share < SHARE:
        return None
    shown = [f"{found.rows[b]} is {found.rows[a]}" for a, b in ((a, b) for b, a in [*equal.items(), *near.items()][:3])]
    return Finding(
        f"Of {len(found):,} pictures looked at{_of(found)}, {len(equal)} are equal to an earlier one and "
        f"{len(near)} differ "
        f"from one by less than {SAME:g} levels of 255 in a thumbnail: row {', row '.join(shown)}.",
        "A picture that is there often is learned by heart, and weighs as much in every score as it is there often.",
        "Keep one of each. Where they have different captions, give the one picture all of them.",
        {"equal": len(equal), "near": len(near), "looked": len(found), "share": share},
    )


def _of(found) -> str:
    return "" if found.share == 1 else f" ({found.total:,} there are)"
