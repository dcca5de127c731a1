"""What a check says when it has found something. A leaf, so that every check may import it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One fault that was seen.

    seen     what was measured, with its numbers, in a sentence
    wrong    why that is wrong
    change   what to change
    numbers  the measured numbers by name, for programs
    """

    seen: str
    wrong: str
    change: str
    numbers: dict[str, float] = field(default_factory=dict)
