"""The papers' networks have the papers' parameters."""

import pytest

from phosphene.nets.joint import ImagenCrossAttention2d as C
from phosphene.nets.joint import ImagenJointAttention2d as J
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


def test_what_is_said_of_unclips_choices():
    """24 layers of the prior; attention in the last upsampler, as ADM's of the same channels has it."""
    from dataclasses import replace

    from phosphene.nets.prior import Prior
    from phosphene.recipes.papers import unclip_upsampler

    deeper = replace(PAPERS["unclip-prior"], build=lambda: Prior(1024, 2048, 24, 32, 256))
    assert counted(deeper) == pytest.approx(1226, abs=1)
    attends = replace(deeper, build=lambda: unclip_upsampler(192, (1, 1, 2, 2, 4, 4), 2, (0, 0, 0, 1, 1, 1)))
    assert counted(attends) == pytest.approx(311, abs=0.5)


def test_what_is_said_of_imagens_choices():
    """The width of T5's states; that an attention is not what 200 M are; what is told in every block."""
    from dataclasses import replace

    from phosphene.recipes.papers import imagen_base, imagen_upscaler

    def millions(build):
        return counted(replace(PAPERS["imagen"], build=build))

    assert millions(lambda: imagen_base(4096)) == pytest.approx(2379, abs=1)
    joint, cross = (millions(lambda a=a: imagen_upscaler(True, a)) for a in (J, C))
    assert 0 < joint - cross < 10
    told = millions(lambda: [block.block.emb for block in imagen_upscaler(False, C).blocks])
    assert told == pytest.approx(28, abs=1)


def test_the_page_has_these_numbers():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/lineage.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in page
