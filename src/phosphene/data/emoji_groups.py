"""Unicode's nine groups of emoji (emoji-test.txt) by first code point, for emoji that come without a table."""

from __future__ import annotations

from bisect import bisect_right

GROUPS = {
    "S": "smileys-emotion",
    "P": "people-body",
    "A": "animals-nature",
    "F": "food-drink",
    "T": "travel-places",
    "C": "activities",
    "O": "objects",
    "Y": "symbols",
    "L": "flags",
}

# where a run of one group begins, in hexadecimal, and its letter
RUNS = """
23Y 231aT 2328O 23cfY 23f0T 23f8Y 2600T 260eO 2611Y 2614T 2615F 2618A 261dP 2620S 2622Y 2639S 2640Y 265fC 2668T 267bY
2692O 2693T 2694O 2695Y 2696O 269bY 26a1T 26a7Y 26b0O 26bdC 26c4T 26ceY 26cfO 26d4Y 26e9T 26f3C 26f4T 26f7P 26f8C
26f9P 26faT 2702O 2705Y 2708T 2709O 270aP 270fO 2714Y 2728C 2733Y 2744T 2747Y 2763S 2795Y 2b50T 2b55Y 1f004C 1f170Y
1f1e6L 1f201Y 1f300T 1f32dF 1f331A 1f336F 1f337A 1f33dF 1f33eA 1f345F 1f380C 1f382F 1f383C 1f385P 1f386C 1f38cL 1f38dC
1f392O 1f396C 1f399O 1f39fC 1f3a0T 1f3a3C 1f3a4O 1f3a6Y 1f3a7O 1f3a8C 1f3a9O 1f3aaT 1f3abC 1f3acO 1f3adC 1f3b5O 1f3bdC
1f3c1L 1f3c2P 1f3c5C 1f3c7P 1f3c8C 1f3caP 1f3cdT 1f3cfC 1f3d4T 1f3e7Y 1f3e8T 1f3eeO 1f3efT 1f3f3L 1f3f5A 1f3f7O 1f3f8C
1f3f9O 1f3faF 1f400A 1f440P 1f451O 1f463P 1f479S 1f47cP 1f47dS 1f481P 1f484O 1f485P 1f488T 1f489O 1f48bS 1f48dO 1f48fP
1f490A 1f491P 1f492T 1f493S 1f4a0Y 1f4a1O 1f4a2S 1f4a3O 1f4a4S 1f4a7T 1f4a8S 1f4aaP 1f4abS 1f4aeA 1f4afS 1f4b0O 1f4b1Y
1f4b3O 1f4baT 1f4bbO 1f4dbY 1f4dcO 1f4f3Y 1f4f7O 1f500Y 1f507O 1f518Y 1f525T 1f526O 1f52aF 1f52bC 1f52cO 1f52eC 1f52fY
1f54aA 1f54bT 1f54eY 1f550T 1f56fO 1f570T 1f573S 1f574P 1f576O 1f577A 1f579C 1f57aP 1f587O 1f590P 1f5a4S 1f5a5O 1f5bcC
1f5c2O 1f5e3P 1f5e8S 1f5f3O 1f5faT 1f5ffO 1f600S 1f645P 1f648S 1f64bP 1f680T 1f6a3P 1f6a4T 1f6a9L 1f6aaO 1f6abY 1f6acO
1f6adY 1f6b2T 1f6b3Y 1f6b4P 1f6b7Y 1f6bdO 1f6beY 1f6bfO 1f6c0P 1f6c1O 1f6c2Y 1f6cbO 1f6ccP 1f6cdO 1f6ceT 1f6cfO 1f6d0Y
1f6d1T 1f6d2O 1f6d5T 1f6d7O 1f6dcY 1f6ddT 1f6e0O 1f6e2T 1f6f7C 1f6f8T 1f7e0Y 1f90cP 1f90dS 1f90fP 1f910S 1f918P 1f920S
1f926P 1f927S 1f930P 1f93fC 1f940A 1f941O 1f942F 1f945C 1f950F 1f970S 1f977P 1f978S 1f97bO 1f980A 1f9afO 1f9b4P 1f9baO
1f9bbP 1f9bcT 1f9beP 1f9c0F 1f9ccP 1f9d0S 1f9d1P 1f9e1S 1f9e2O 1f9e7C 1f9eaO 1f9edT 1f9eeO 1f9f1T 1f9f2O 1f9f3T 1f9f4O
1f9f5C 1f9f7O 1f9f8C 1f9f9O 1fa75S 1fa78O 1fa80C 1fa82T 1fa83O 1fa84C 1fa87O 1fa90T 1fa91O 1faa1C 1faa3O 1faa8T 1faa9C
1faaaO 1faafY 1fab0A 1fab5T 1fab6A 1fac0P 1faceA 1fad0F 1fadfY 1fae0S 1fae6P 1fae7O 1fae8S 1faf0P
"""

STARTS = [int(run[:-1], 16) for run in RUNS.split()]
LETTERS = [run[-1] for run in RUNS.split()]


def group_of(emoji: str) -> str:
    """The group of an emoji, by its first character: 🦊 → "animals-nature"."""
    return GROUPS[LETTERS[max(bisect_right(STARTS, ord(emoji[0])) - 1, 0)]]
