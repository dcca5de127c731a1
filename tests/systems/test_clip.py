"""CLIP at work: what its picture tower is shown, zero-shot classification, one tower alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from phosphene.errors import Problem
from phosphene.systems.clip import CHUNK, ClipSystem, Look

from .small import clip, clip_vit, eight


def photo(w: int, h: int, seed: int = 0) -> Image.Image:
    """Noise of several sizes, as hard to resize as can be."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (h // 7 + 1, w // 7 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((w, h), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-60, 60, (h, w, 3)), 0, 255).astype(np.uint8))


def bits(shown: torch.Tensor) -> torch.Tensor:
    """What Look(size, None, None) gives, in 0 … 255."""
    return (shown + 1) / 2 * 255


SIZES = [((640, 480), 224), ((300, 301), 224), ((97, 150), 224), ((50, 333), 64), ((64, 64), 64), ((800, 90), 32)]


@pytest.mark.parametrize("side, size", SIZES)
def test_a_pil_picture_is_shown_as_openai_s_preprocessing_does(side, size):
    """PIL resizes the short side, the middle is cut out. One grey level off in 1 % of the pixels, never above two."""
    picture = photo(*side)
    w, h = (size * s // min(side) for s in side)
    left, top = (round((s - size) / 2) for s in (w, h))
    resized = picture.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    right = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float()
    ours = bits(Look(size, None, None)(picture))
    off = (ours - right).abs()
    assert ours.shape == right.shape and off.max() < 2.01 and (off > 0.5).float().mean() < 0.01


@pytest.mark.parametrize("side", [(640, 480), (90, 150)])
def test_a_tensor_is_shown_as_its_picture(side):
    picture = photo(*side)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    a, b = (bits(Look(64, None, None)(p)) for p in (picture, tensor))
    assert (a - b).abs().mean() < 0.5 and (a - b).abs().max() < 12  # the 8 bits are rounded, and cut between two steps


def test_transformers_processor():
    """The same numbers as CLIPImageProcessor's, where the middle is one (theirs is half a pixel off with odd sides)."""
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil()
    pictures = [photo(320, 448), photo(400, 300, 1), photo(224, 224, 2)]
    theirs = torch.from_numpy(np.stack(processor(images=pictures)["pixel_values"]))
    off = (Look()(pictures) - theirs).abs() * 255 * 0.2686
    assert off.max() < 2.1 and off.mean() < 0.02


def test_other_looks():
    picture = photo(100, 60)
    assert Look(32, whole=True)(picture).shape == Look(32)(picture).shape == (1, 3, 32, 32)
    assert not torch.equal(Look(32, whole=True)(picture), Look(32)(picture))
    squashed = torch.from_numpy(np.array(picture.resize((32, 32), Image.Resampling.BILINEAR)))
    assert (bits(Look(32, None, None, True, "bilinear")(picture))[0].permute(1, 2, 0) - squashed).abs().max() < 1.01
    wider = Look(32, short=40)(picture)  # a margin is cut off
    assert torch.allclose(wider, Look(40)(picture)[..., 4:36, 4:36])
    grey = Image.fromarray(np.full((50, 50), 128, np.uint8))
    mean, std = torch.tensor([[0.1, 0.2, 0.3], [0.5, 1.0, 2.0]])
    shown = Look(32, mean.tolist(), std.tolist())(grey)
    assert torch.allclose(shown.mean((0, 2, 3)), (128 / 255 - mean) / std)


def test_gradients_reach_the_picture():
    torch.manual_seed(0)
    system = clip_vit()
    system.look = Look(32)
    picture = (torch.rand(2, 3, 48, 40) - 0.5).requires_grad_()
    system.embed_image(picture).sum().backward()
    assert picture.grad.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("make", [clip, clip_vit])
def test_zero_shot(make):
    """softmax of scaled cosines, for tensors, for a PIL picture and for many; nearest is their order."""
    torch.manual_seed(0)
    system = make().eval()
    system.look = Look(32)
    names = ["red circle", "blue square", "green triangle"]
    pictures = [photo(50, 40, seed) for seed in range(3)]
    odds = system.zero_shot(pictures, names, "a {} here")
    with torch.no_grad():
        image, text = system.embed_image(pictures), system.embed_text([f"a {n} here" for n in names])
    assert torch.allclose(odds, (image @ text.T / 0.07).softmax(-1), atol=1e-5)
    assert torch.allclose(odds[:1], system.zero_shot(pictures[0], names, "a {} here"), atol=1e-5)
    assert torch.equal(system.nearest(pictures, names, 3), (image @ system.embed_text(names).T).argsort(1, True))
    assert torch.allclose(image.norm(dim=-1), torch.ones(3))


def test_many_pictures_and_many_texts():
    """In chunks, which nothing shows."""
    torch.manual_seed(0)
    system = clip_vit().eval()
    pictures, texts = torch.randn(2, 3, 32, 32).repeat(CHUNK // 2 + 1, 1, 1, 1), [str(i % 7) for i in range(CHUNK + 9)]
    odds = system.similarity(pictures, texts)
    assert odds.shape == (CHUNK + 2, CHUNK + 9)
    assert torch.allclose(odds[-2:, -9:], system.similarity(pictures[:2], texts[-9:]), atol=1e-5)


def test_the_scale_is_at_most_100():
    system = clip()
    assert system.scale.item() == pytest.approx(1 / 0.07)
    nn.init.constant_(system.log_scale, 9.0)
    assert system.scale.item() == pytest.approx(100)


def test_one_tower_alone():
    whole = clip_vit()
    text, image = ClipSystem(whole.text, None, None), ClipSystem(None, whole.image, 5, size=32)
    batch = eight()
    assert torch.equal(text.text_features(batch.prompts), whole.text(batch.prompts).vector)
    assert image.embed_image(batch.image).shape == (8, 5)
    with pytest.raises(Problem, match="text tower alone"):
        text.embed_image(batch.image)
    with pytest.raises(Problem, match="picture tower alone"):
        image.embed_text(batch.prompts)


def test_what_our_own_are_shown():
    """Of their size as they are; of another brought to it, as a whole."""
    system = clip_vit()
    right = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.allclose(system.look(right), right, atol=1e-6)
    other = torch.rand(2, 3, 50, 40) * 2 - 1
    expected = F.interpolate(other, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    assert torch.allclose(system.look(other), expected, atol=1e-5)
    assert clip().look is None
