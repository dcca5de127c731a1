"""What a small model knows, so that it can say so when it is asked for something else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..parts import part

WORDS = "a an the of in on at with and or to for as is emoji picture image icon drawing photo style"
STOP = {*WORDS.split(" "), *"的一个只幅张"}


class Known(NamedTuple):
    """Whether the vocabulary covers a prompt, and the entry nearest to it."""

    known: bool
    nearest: str


@part
class Vocabulary:
    """Entries [name, other names and keywords …]; `style` are words that say how, not what.

    A prompt is known if one entry has at least half of its words (in Chinese: of its pairs of characters).
    """

    def __init__(self, entries: Sequence[Sequence[str]], style: Sequence[str] = ()):
        self.entries, self.style = [list(e) for e in entries], list(style)
        self._ignored = STOP | {w for s in style for w in pieces(s)}
        self._pieces = [{w for text in e for w in pieces(text)} for e in self.entries]
        self._names = [{w for text in e[:2] for w in pieces(text)} for e in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        return [e[0] for e in self.entries]

    def __call__(self, prompt: str) -> Known:
        """Known(True, …) also for the empty prompt, which asks for nothing."""
        asked = pieces(prompt) - self._ignored
        if not asked or not self.entries:
            return Known(True, "")

        def overlap(i: int) -> tuple[float, float]:
            name = self._names[i]
            return len(asked & self._pieces[i]) / len(asked), len(asked & name) / len(asked | name)

        best = max(range(len(self.entries)), key=overlap)
        return Known(overlap(best)[0] >= 0.5, self.entries[best][0])


def pieces(text: str) -> set[str]:
    """Words of Latin and other alphabets, without a plural s; of runs of Chinese every pair of neighbours."""
    found = set()
    for word in re.findall(r"[一-鿿]+|[^\W_一-鿿]+", text.lower()):
        if "一" <= word[0] <= "鿿":
            found |= {word[i : i + 2] for i in range(max(1, len(word) - 1))}
        else:
            found.add(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word)
    return found
