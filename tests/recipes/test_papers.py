"""The papers' networks have the papers' parameters."""

import pytest

from phosphene.recipes.papers import PAPERS, counted, glide_text, glide_upsampler, table


@pytest.mark.parametrize("name", PAPERS)
def test_parameters(name):
    """Within 5 % of what the paper says; else what it does not say is named, and the count is not far."""
    paper = PAPERS[name]
    off = abs(counted(paper) / paper.millions - 1)
    assert off < 0.05 or (paper.choice and off < 0.1)


def test_the_choices_that_are_named_explain_the_difference():
    """GLIDE's text without its embeddings; its upsampler with 16 layers of text."""
    from dataclasses import replace

    text = PAPERS["glide-text"]
    blocks = counted(replace(text, build=lambda: glide_text(2048, 24, 2048).transformer.blocks))
    assert abs(blocks / text.millions - 1) < 0.01
    shorter = counted(replace(PAPERS["glide-upsampler"], build=lambda: glide_upsampler(16)))
    assert shorter == pytest.approx(1543, abs=1)


def test_the_page_has_these_numbers():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/lineage.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in page
