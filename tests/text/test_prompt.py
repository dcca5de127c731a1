"""The prompt grammar: own cases of every rule, and the web UI's recorded answers where they are there."""

import json
import time

import pytest

from phosphene.errors import Problem
from phosphene.text.prompt import Emphasised, at_steps, bare, emphasised, loras, subprompts


def said(text):
    return [[(t, round(w, 6)) for t, w in chunk] for chunk in emphasised(text).chunks]


@pytest.mark.parametrize(
    "text, want",
    [
        ("plain", [("plain", 1)]),
        ("", []),
        ("a (b) c", [("a ", 1), ("b", 1.1), (" c", 1)]),
        ("((b))", [("b", 1.21)]),
        ("[b]", [("b", 0.909091)]),
        ("(b:1.3)", [("b", 1.3)]),
        ("((b:1.3))", [("b", 1.43)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(b: -.5 )", [("b", -0.5)]),
        ("(b:1.2.3)", [("b:1.2.3", 1.1)]),
        ("[b:2]", [("b:2", 0.909091)]),
        ("(open [all", [("open ", 1.1), ("all", 1.0)]),
        ("a) b] c:2)", [("a) b] c:2)", 1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.909091)]),
        (r"\(a\) \[b\] \\ \c", [(r"(a) [b] \ c", 1)]),
        ("(a)(b:1.1)", [("ab", 1.1)]),
        ("(红色:1.2)圆形", [("红色", 1.2), ("圆形", 1)]),
    ],
)
def test_emphasis(text, want):
    assert said(text) == [want]


def test_break():
    assert said("a BREAK b") == [[("a", 1)], [("b", 1)]]
    assert said("(a BREAK b:1.2) c") == [[("a", 1.2)], [("b", 1.2), (" c", 1)]]
    assert said("BREAK a BREAK BREAK") == [[], [("a", 1)], [], []]
    assert said("BREAKfast") == [[("BREAKfast", 1)]]


def test_characters():
    text, weights = emphasised("a (bc:2) BREAK [d]").characters()
    assert text == "a bc d" and weights == pytest.approx([1, 1, 2, 2, 1, 1 / 1.1])
    assert emphasised("(a:1.0) b").weighted is False and emphasised("(a)").weighted
    assert str(emphasised("")) == ""


@pytest.mark.parametrize(
    "text, steps, want",
    [
        ("x", 2, ["x", "x"]),
        ("a [b:c:2]", 3, ["a b", "a b", "a c"]),
        ("[b:0.5]", 4, ["", "", "b", "b"]),
        ("[b::0.5]", 4, ["b", "b", "", ""]),
        ("[a:b:0.29]", 4, ["a", "b", "b", "b"]),
        ("[a:b:-1]", 2, ["b", "b"]),
        ("[a:b:99]", 2, ["a", "a"]),
        ("[a|b]", 3, ["a", "b", "a"]),
        ("[a||c]d", 4, ["ad", "d", "cd", "ad"]),
        ("[[a|b]:c:2]", 4, ["a", "b", "c", "c"]),
        ("([a:b:1]:1.3)", 2, ["(a:1.3)", "(b:1.3)"]),
        ("[(a:1.2):b:1]", 2, ["(a:1.2)", "b"]),
        ("[a:b]", 2, ["[a:b]"] * 2),
        ("[a:b:c:1]", 2, ["[a:b:c:1]"] * 2),
        ("[a:b|c:1]", 2, ["[a:b|c:1]"] * 2),
        ("[x [a:b:1]", 2, ["[x a", "[x b"]),
        ("[a:b:1]]", 2, ["a]", "b]"]),
        ("[(a:b:1]", 2, ["[(a:b:1]"] * 2),
        ("[a) b:c:1]", 2, ["[a) b:c:1]"] * 2),
        (r"\[a:b:1] [a\:x:b:1]", 2, [r"\[a:b:1] a\:x", r"\[a:b:1] b"]),
        ("a | b: c", 1, ["a | b: c"]),
        ("end\\", 1, ["end\\"]),
    ],
)
def test_schedules(text, steps, want):
    assert at_steps(text, steps) == want


def test_and():
    assert subprompts("a AND b :0.5 AND (c:1.3):-2") == [("a", 1), (" b", 0.5), (" (c:1.3)", -2)]
    assert subprompts("a sANDwich at 10:30") == [("a sANDwich at 10:30", 1)]


def test_loras():
    assert loras("a <lora:ink:0.8> b<lora: my lora>") == ("a  b", [("ink", 0.8), ("my lora", 1.0)])
    assert loras("a < b > <other:1>") == ("a < b > <other:1>", [])
    for wrong in ("<lora:>", "<lora:x:much>", "<lora:x:1:2>"):
        with pytest.raises(Problem, match="<lora:name:weight>"):
            loras(wrong)


def test_bare():
    words = bare("a (red:1.3) [cat:[dog|fox]:0.5] <lora:ink:1>").split()
    assert words == ["a", "red", "cat", "dog", "fox"]


def test_breaks_take_the_blanks_beside_them():
    said = emphasised(" a \n BREAK  b BREAK\tBREAK c ")
    assert [[f.text for f in chunk] for chunk in said.chunks] == [[" a"], ["b"], [], ["c "]]
    assert [f.text for chunk in emphasised("a BREAKFAST").chunks for f in chunk] == ["a BREAKFAST"]


def test_nothing_hangs_or_breaks():
    """Deep, long and unbalanced prompts take no time to speak of, and at worst are a Problem."""
    began = time.monotonic()
    for text in ("(" * 90 + "[a|b]" + ")" * 90, "[a:" * 50 + ":5]" * 50, "a (b) [c] " * 5000, "]:)|" * 5000):
        assert len(at_steps(text, 3)) == 3 and isinstance(emphasised(text), Emphasised)
    for read in (lambda text: at_steps(text, 1), emphasised):
        for text in ("(" * 101 + ")" * 101, "[|" * 20_000 + "]" * 10):
            with pytest.raises(Problem, match="100 brackets"):
                read(text)
    for text in ("a" + " " * 40_000 + "b", "(a:" + "1" * 40_000, "a:" + " " * 40_000 + "b AND c"):
        assert str(emphasised(text)) == text.lstrip("(") and len(subprompts(text)) < 3
    assert at_steps("[a:b:" + "9" * 400 + "]", 2) == ["a", "a"]
    assert at_steps("[a:b:-" + "9" * 400 + ".]", 1) == ["b"]
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def vectors(shared):
    return json.loads((shared / "fixtures/a1111_vectors.json").read_text(encoding="utf-8"))


def test_recorded_emphasis(vectors):
    """Weights of a BREAK are left out: the web UI's "(x BREAK y:1.2)" weighs the break, which then is none."""
    for case in vectors["attention"]:
        want = [[]]
        for text, weight in case["parsed"]:
            if text == "BREAK" and weight < 0:
                want.append([])
            elif text:
                want[-1].append((text, round(weight, 6)))
        assert said(case["text"]) == want, case["text"]


def test_recorded_schedules(vectors):
    for case in vectors["schedule"]:
        want = []
        for last, text in case["schedule"]:
            want += [text] * (last - len(want))
        assert at_steps(case["text"], case["steps"]) == want, case["text"]


def test_recorded_and(vectors):
    for case in vectors["multicond"]:
        assert [list(p) for p in subprompts(case["text"])] == case["parts"], case["text"]
