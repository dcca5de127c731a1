import pytest
import torch

from phosphene.diffusion.cond import Cond


def cond(length: int, rows: int = 1, **more) -> Cond:
    return Cond(vector=torch.ones(rows, 2), tokens=torch.full((rows, length, 3), float(length)), **more)


def test_cat_pads_and_completes_the_mask():
    both = Cond.cat([cond(2), cond(4, rows=2)])
    assert both.tokens.shape == (3, 4, 3) and len(both) == 3
    assert both.mask.tolist() == [[True, True, False, False], [True] * 4, [True] * 4]
    assert both.tokens[0, 2:].eq(0).all() and both.tokens[1].eq(4).all()


def test_cat_keeps_what_a_mask_hides():
    hidden = cond(2, mask=torch.tensor([[True, False]]))
    assert Cond.cat([hidden, cond(3)]).mask.tolist() == [[True, False, False], [True, True, True]]
    assert Cond.cat([cond(2), cond(2)]).mask is None


def test_cat_pads_regions_with_nothing():
    regions = torch.ones(1, 2, 4, 4)
    both = Cond.cat([cond(2, regions=regions), cond(3, regions=torch.ones(1, 3, 4, 4))])
    assert both.regions.shape == (2, 3, 4, 4) and both.regions[0, 2].eq(0).all()


def test_cat_of_different_fields():
    with pytest.raises(ValueError, match="different fields"):
        Cond.cat([cond(2), Cond(vector=torch.ones(1, 2))])


def test_rows_and_expand():
    c = cond(2, rows=3)
    assert len(c[1:]) == 2 and len(Cond()) == 0
    assert len(cond(2).expand(5)) == 5 and c.expand(3) is c and Cond().expand(4) == Cond()


def test_to_casts_all_but_the_mask():
    c = cond(2, mask=torch.tensor([[True, False]])).to(dtype=torch.bfloat16)
    assert c.tokens.dtype == c.vector.dtype == torch.bfloat16 and c.mask.dtype == torch.bool
    moved = c.to(torch.device("meta"))
    assert moved.mask.device.type == moved.tokens.device.type == "meta" and moved.tokens.dtype == torch.bfloat16
    back = cond(2, mask=torch.tensor([[True, False]])).to(torch.device("meta")).to(dtype=torch.float16)
    assert back.mask.device.type == "meta", "a cast alone moves nothing"
