"""CLIP score, R-precision and exact composition."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from phosphene.data.scenes import Scenes, matches
from phosphene.data.scenes.draw import render
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.errors import Problem
from phosphene.metrics.composition import composition
from phosphene.metrics.words import alignment, clip_scores, r_precision, recall_at


def test_clip_score_is_torchmetrics(shared):
    recorded = np.load(shared / "fixtures/clip/clipscore_ref.npz")
    ours = clip_scores(torch.from_numpy(recorded["img"]), torch.from_numpy(recorded["txt"]))
    assert ours.numpy() == pytest.approx(recorded["clipscore_x100"], abs=1e-9)
    assert ours.numpy() / 40 == pytest.approx(recorded["clip_s_2p5"], abs=1e-12)
    assert float(ours.mean()) == pytest.approx(float(recorded["mean_x100"]))


def test_clip_score_by_its_formula():
    image, text = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert clip_scores(image, text).tolist() == pytest.approx([60, 0])
    with pytest.raises(Problem, match="a pair each"):
        clip_scores(image, text[:1])


def test_r_precision_of_what_is_known():
    prompts = [f"prompt {i}" for i in range(40)]
    same = torch.eye(40)
    assert r_precision(same, same, prompts).value == 1
    assert r_precision(same.roll(1, 0), same, prompts).value == 0
    assert r_precision(torch.cat([same[:20], same[:20].roll(1, 0)]), torch.cat([same[:20]] * 2), prompts).value == 0
    noise = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    by_chance = r_precision(noise, noise.roll(7, 0), [str(i) for i in range(2000)], others=9)
    assert by_chance.value == pytest.approx(0.1, abs=0.03) and by_chance.low < 0.1 < by_chance.high
    # the same prompt twice is no rival of itself
    assert r_precision(same[:2].repeat(2, 1), same[:2].repeat(2, 1), ["a", "b", "a", "b"]).value == 1
    with pytest.raises(Problem, match="all 2 are 'a'"):
        r_precision(same[:2], same[:2], ["a", "a"])


def test_recall():
    scores = torch.tensor([[0.1, 0.5, 0.3], [0.9, 0.2, 0.8]])
    assert [recall_at(scores, [2, 0], k) for k in (1, 2, 9)] == [1, 2, 2]


def test_alignment_by_a_clip():
    class Judge:
        def embed_text(self, prompts):
            return F.one_hot(torch.tensor([int(p) for p in prompts]), 300).float()

    prompts = [str(i) for i in range(300)]
    pictures = torch.eye(300) + torch.eye(300).roll(1, 1)
    found = alignment(Judge(), pictures, prompts)
    assert found["clip_score"].value == pytest.approx(100 / 2**0.5, rel=1e-5)
    assert 0 < found["r_precision"].value < 1  # a tie is no hit, and the rival is drawn one time in three


def test_composition_of_perfect_and_of_exchanged_pictures():
    cases = evaluation_scenes("pair", 12) + evaluation_scenes("unseen", 6)
    specs, pictures = [s for s, _ in cases], [render(scene, 32) for _, scene in cases]
    judged = lambda specs, pictures: composition(specs, [*map(matches, specs, pictures)])  # noqa: E731
    perfect = judged(specs, pictures)
    assert {what: (it.value, n) for what, (it, n) in perfect.items()}["all"] == (1, 18)
    assert perfect["unseen pairs"][0].value == 1 and perfect["unseen pairs"][1] == 6
    assert perfect["relation"][1] == sum(s.relation is not None for s in specs)
    assert 0.7 < perfect["all"][0].low < 1
    other = judged(specs, pictures[1:12] + pictures[:1] + pictures[12:])
    assert other["count"][0].value == 1 and other["nothing foreign"][0].value == 1
    assert other["all"][0].value < 0.5 and other["unseen pairs"][0].value == 1
    words = judged([Scenes(n=3)[i].captions[0] for i in range(3)], [Scenes(n=3)[i].image for i in range(3)])
    assert words["all"][0].value == 1 and "unseen pairs" not in words
