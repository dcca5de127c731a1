"""What is said of a scene: a Spec, the captions that say it in English and Chinese, and the grammar that reads them.

A spec is one to four groups of like objects, and between two groups perhaps a relation:

    spec   = group (("," | "and") group)*  |  group relation group      "a small red circle left of two blue squares"
    group  = [number] [size] colour shape                               "two blue squares"; 两个蓝色正方形
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from phosphene.data.scenes.draw import Object, Scene, check_object
from phosphene.errors import Problem

RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}  # the direction from B to A, y down
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
MOST = 4  # objects


@dataclass(frozen=True)
class Group:
    """`count` objects of one colour and shape; of one size, or of any where size is None."""

    count: int
    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Spec:
    """Everything a prompt says: these objects and no others; every one of groups[0] stands `relation` of groups[1]."""

    groups: tuple[Group, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        for g in self.groups:
            check_object(g.shape, g.colour, g.size)
        if not 1 <= sum(g.count for g in self.groups) <= MOST:
            raise Problem(f"a scene has 1 to {MOST} objects; this one has {sum(g.count for g in self.groups)}")
        if self.relation is not None and (len(self.groups) != 2 or self.relation not in RELATIONS):
            raise Problem(f"relation {self.relation!r}: {', '.join(RELATIONS)} hold between two groups")

    def without_sizes(self) -> Spec:
        return Spec(tuple(replace(g, size=None) for g in self.groups), self.relation)


def stands(relation: str, a: list[Object], b: list[Object], margin: float) -> bool:
    """Whether every centre of `a` is at least `margin` units to that side of every centre of `b`."""
    dx, dy = RELATIONS[relation]
    return all((p.x - q.x) * dx + (p.y - q.y) * dy >= margin for p in a for q in b)


def spec_of(scene: Scene) -> Spec:
    """The groups of a scene in its order, with sizes, without a relation."""
    groups: dict[tuple, int] = {}
    for o in scene:
        groups[o.colour, o.shape, o.size] = groups.get((o.colour, o.shape, o.size), 0) + 1
    return Spec(tuple(Group(n, colour, shape, size) for (colour, shape, size), n in groups.items()))


# ---------------------------------------------------------------- saying

SHAPES_EN = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle",
    "cross": "cross",
    "ring": "ring",
    "heart": "heart",
}
SHAPES_ZH = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "cross": "十字",
    "ring": "圆环",
    "heart": "心形",
}
COLOURS_ZH = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色",
    "blue": "蓝色", "purple": "紫色", "pink": "粉色", "black": "黑色",
}  # fmt: skip
SIZES_ZH = {"small": "小", "medium": "中等", "large": "大"}
NUMBERS_EN, NUMBERS_ZH = ("", "a", "two", "three", "four"), ("", "一个", "两个", "三个", "四个")

ONE_EN = ("{0}", "{0}", "a picture of {0}", "{0} on white")
TWO_EN = {
    None: ("{0} and {1}", "{1} and {0}"),
    "left": ("{0} left of {1}", "{0} to the left of {1}", "{0} on the left and {1} on the right"),
    "right": ("{0} right of {1}", "{0} to the right of {1}", "{0} on the right and {1} on the left"),
    "above": ("{0} above {1}", "{0} over {1}", "{0} at the top and {1} at the bottom"),
    "below": ("{0} below {1}", "{0} under {1}", "{0} at the bottom and {1} at the top"),
}
SIDES_ZH = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}
ONE_ZH = ("{0}", "{0}", "画面上有{0}", "白底上的{0}")
RELATION_ZH = ("{0}在{1}的{side}", "{1}的{side}有{0}", "{side}是{0}，{other}是{1}")


def caption(spec: Spec, language: str = "en", rng: random.Random | None = None) -> str:
    """One sentence that says the spec, in "en" or "zh"; the plainest wording, or one drawn by `rng`."""
    if language not in ("en", "zh"):
        raise Problem(f"language {language!r}: scenes are captioned in 'en' and 'zh'")
    english = language == "en"
    words = [(_group_en if english else _group_zh)(g, rng) for g in spec.groups]
    if len(words) == 2 and (english or spec.relation):
        forms = TWO_EN[spec.relation] if english else RELATION_ZH
        sides = {} if english else {"side": SIDES_ZH[spec.relation], "other": SIDES_ZH[OPPOSITE[spec.relation]]}
        return _pick(forms, rng).format(*words, **sides)
    listed = words[0]
    if len(words) > 1:
        listed = ", ".join(words[:-1]) + " and " + words[-1] if english else "、".join(words[:-1]) + "和" + words[-1]
    return _pick(ONE_EN if english else ONE_ZH, rng).format(listed)


def _pick(forms: tuple[str, ...], rng: random.Random | None) -> str:
    return forms[int(rng.random() * len(forms))] if rng else forms[0]


def _group_en(g: Group, rng: random.Random | None) -> str:
    size = "" if g.size is None else g.size + " "
    if g.size == "large" and rng and rng.random() < 0.5:
        size = "big "
    noun = SHAPES_EN[g.shape] if g.count == 1 else {"cross": "crosses"}.get(g.shape, SHAPES_EN[g.shape] + "s")
    number = "an" if g.count == 1 and (size or g.colour)[0] in "aeiou" else NUMBERS_EN[g.count]
    return f"{number} {size}{g.colour} {noun}"


def _group_zh(g: Group, rng: random.Random | None) -> str:
    number, colour, shape = NUMBERS_ZH[g.count], COLOURS_ZH[g.colour], SHAPES_ZH[g.shape]
    if g.size is None:
        return f"{number}{colour}{_pick(('', '的'), rng)}{shape}"
    size = SIZES_ZH[g.size]
    if rng and rng.random() < 0.5:
        return f"{number}{colour}的{ {'medium': '中号'}.get(g.size, size) }{shape}"
    return f"{number}{size}的{colour}{shape}"


# ---------------------------------------------------------------- reading

ALSO_EN = {
    "big": "large", "huge": "large", "tiny": "small", "little": "small", "medium-sized": "medium",
    "violet": "purple", "disc": "circle", "disk": "circle", "dot": "circle", "plus": "cross", "plus sign": "cross",
}  # fmt: skip
ALSO_ZH = {
    "小号": "small", "小型": "small", "中号": "medium", "中": "medium", "大号": "large", "大型": "large",
    "橘色": "orange", "粉红色": "pink", "粉红": "pink", "圆": "circle", "方块": "square", "方形": "square",
    "三角": "triangle", "十字形": "cross", "加号": "cross", "环形": "ring", "圆圈": "ring", "爱心": "heart",
}  # fmt: skip
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4}
SIDES = {
    "left": r"(?:to |on )?(?:the )?left(?: side)? of", "right": r"(?:to |on )?(?:the )?right(?: side)? of",
    "above": "above|over|on top of", "below": "below|under|beneath|underneath",
}  # fmt: skip
ENDS = {
    "left": "on the left",
    "right": "on the right",
    "above": "(?:at|on) (?:the )?top",
    "below": "(?:at|on) (?:the )?bottom",
}


def _vocabulary() -> dict[str, tuple[str, str]]:
    """{word: (kind, name)} of both languages."""
    found: dict[str, tuple[str, str]] = {}
    kinds = (("size", SIZES_ZH), ("colour", COLOURS_ZH), ("shape", SHAPES_ZH))
    for kind, chinese in kinds:
        for name, word in chinese.items():
            found |= {name: (kind, name), word: (kind, name)}
            if kind == "colour":
                found[word.removesuffix("色")] = (kind, name)
        for word, name in (ALSO_EN | ALSO_ZH).items():
            if name in chinese:
                found[word] = (kind, name)
    return found


WORDS = _vocabulary()
BY_LENGTH = sorted(WORDS, key=len, reverse=True)


def read(prompt: str) -> Spec:
    """What a prompt says. Problem, naming the words that are not understood, if the grammar does not cover it."""
    text = re.sub(r"\s+", " ", prompt.strip().lower().rstrip(".!。！")).replace("，", ",")
    chinese = bool(re.search(r"[一-鿿]", text))
    groups, relation = (_clauses_zh if chinese else _clauses_en)(text)
    if not "".join(groups).strip():
        raise Problem(
            f"prompt {prompt!r} says nothing; for example {'一个红色圆形' if chinese else 'a small red circle'!r}"
        )
    return Spec(tuple((_read_zh if chinese else _read_en)(g, prompt) for g in groups), relation)


def _clauses_en(text: str) -> tuple[list[str], str | None]:
    text = re.sub(r"^(?:(?:a|the) )?(?:picture|drawing|image|photo) of |^there (?:is|are) ", "", text)
    text = re.sub(r" on (?:a |the )?white(?: background)?$", "", text)
    for relation, end in ENDS.items():
        if found := re.fullmatch(rf"(.+?),? {end}(?:,| and|, and) (.+?),? {ENDS[OPPOSITE[relation]]}", text):
            return list(found.groups()), relation
    for relation, side in SIDES.items():
        if found := re.fullmatch(rf"(.+?),? (?:is |are |stands? )?(?:{side}) (.+)", text):
            return list(found.groups()), relation
    return re.split(r",? and |, ?", text), None


def _clauses_zh(text: str) -> tuple[list[str], str | None]:
    text = text.replace(" ", "")
    text = re.sub(r"^(?:画面上|画面里|图中|图上)?有|^白(?:色)?(?:背景|底)上?的?|^一(?:幅|张)", "", text)
    sides = {relation: f"{side[0]}[边面侧方]" for relation, side in SIDES_ZH.items()}
    for relation, side in sides.items():
        if found := re.fullmatch(f"{side}[是有](.+?),?{sides[OPPOSITE[relation]]}[是有](.+)", text):
            return list(found.groups()), relation
    for relation, side in sides.items():
        if found := re.fullmatch(f"(.+?)(?:位于|在)(.+?)的?{side}", text):
            return list(found.groups()), relation
        if found := re.fullmatch(f"在?(.+?)的?{side}[有是](.+)", text):
            return [found[2], found[1]], relation
    return re.split("[、,和与]+", text), None


def _read_en(words: str, prompt: str) -> Group:
    first, _, rest = words.strip().partition(" ")
    count = COUNTS.get(first) or (int(first) if first.isdigit() else None)
    singular = {w + end: w for w, (kind, _) in WORDS.items() if kind == "shape" for end in ("s", "es")}
    names: dict[str, str] = {}
    left = f" {(rest if count else words).strip()} "
    for word in sorted([*BY_LENGTH, *singular], key=len, reverse=True):
        if f" {word} " in left:
            kind, name = WORDS[singular.get(word, word)]
            left = left.replace(f" {word} ", " ", 1) if kind not in names else left
            names.setdefault(kind, name)
    return _group(count or 1, names, left.strip(), words, prompt)


def _read_zh(words: str, prompt: str) -> Group:
    found = re.match(r"([一二两三四]|\d+)?[个颗只枚]?", words)
    assert found is not None  # everything in it is optional
    digits = found[1] or "一"
    count = COUNTS.get(digits) or int(digits)
    names: dict[str, str] = {}
    left = words[found.end() :]
    for word in BY_LENGTH:
        kind, name = WORDS[word]
        if word in left and kind not in names and not word.isascii():
            left, names[kind] = left.replace(word, "", 1), name
    return _group(count, names, left.replace("的", ""), words, prompt)


def _group(count: int, names: dict[str, str], left: str, words: str, prompt: str) -> Group:
    if left or "colour" not in names or "shape" not in names:
        what = f"{left!r}" if left else f"{words.strip()!r} names no {'shape' if 'colour' in names else 'colour'}"
        raise Problem(
            f"prompt {prompt!r}: {'not understood: ' if left else ''}{what}; "
            "an object is a number, a size, a colour and a shape, as in 'two small red circles'"
        )
    if not 1 <= count <= MOST:
        raise Problem(f"prompt {prompt!r}: {count} objects; a scene has 1 to {MOST}")
    return Group(count, names["colour"], names["shape"], names.get("size"))
