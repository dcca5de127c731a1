"""Extractors: one contract, weights that are checked, names that say what a score was measured on."""

import hashlib
import shutil

import pytest
import torch

from nets.test_inception import random_weights
from phosphene.errors import Problem
from phosphene.metrics import features
from phosphene.metrics.features import extractor, fetched
from phosphene.metrics.resize import resize
from phosphene.nets.autoencoder import ConvTower
from phosphene.systems.clip import ClipSystem
from phosphene.weights import bundle

PICTURES = torch.randint(0, 256, (3, 40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def kept_contract(it) -> torch.Tensor:
    found = it(PICTURES)
    assert found.shape == (3, it.dim) and found.dtype == torch.float32 and found.isfinite().all()
    assert torch.allclose(it(PICTURES[1:2]), found[1:2], atol=1e-4)  # not a function of the batch
    assert it.about["checksum"] == it.checksum and it.about["resize"] == it.resize
    return found


def test_thumbnails_need_nothing_and_see_colour():
    it = extractor("thumbnails")
    assert (it.title, it.dim, it.checksum) == ("FD (thumbnails)", 192, "none")
    kept_contract(it)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 20, 20, 3)
    assert it(red).view(3, 64).mean(1).tolist() == [1, 0, 0]
    assert not torch.equal(extractor("thumbnails", resize="torch")(PICTURES), it(PICTURES))
    with pytest.raises(Problem, match="unknown resize 'tensorflo'; did you mean 'tensorflow'"):
        extractor(resize="tensorflo")


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_weights(1), path)
    return path


def test_inception_is_named_only_by_the_known_checksum(inception_weights, monkeypatch):
    it = extractor("inception", inception=inception_weights)
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert it.title == f"FD (Inception weights {digest[:8]})" and it.checksum == digest[:12]
    found = kept_contract(it)
    from phosphene.nets.inception import Inception

    net = Inception().eval()
    net.load_state_dict(random_weights(1))
    with torch.no_grad():
        theirs, logits = net((resize(PICTURES, 299) - 128) / 128)
    assert torch.allclose(found, theirs, rtol=1e-4, atol=1e-4)
    assert it.classes is None  # so that no inception score is given either
    monkeypatch.setattr(features, "PUBLISHED", digest[:8])
    monkeypatch.setenv("PHOSPHENE_INCEPTION", str(inception_weights))
    known = extractor("inception")
    assert known.title == "FID (Inception)"
    assert torch.allclose(found @ known.classes.T, logits, rtol=1e-3, atol=1e-3)


def test_inception_of_another_shape_is_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match=r"no ported Inception-v3: .* is None, not \(32, 3, 3, 3\)"):
        extractor("inception", inception=tmp_path / "other.pth")


def test_what_is_fetched_is_checked_and_kept_whole(tmp_path):
    wrong, right, path = tmp_path / "wrong", tmp_path / "right", tmp_path / "cache/it.pth"
    wrong.write_bytes(b"an error page")
    right.write_bytes(b"weights")
    begins = hashlib.sha256(b"weights").hexdigest()[:8]
    missing = (tmp_path / "missing").as_uri()
    with pytest.raises(Problem, match=f"could not be fetched.*missing.*begins with .*, not {begins}"):
        fetched((missing, wrong.as_uri()), path, begins)
    assert not path.exists()
    assert fetched((missing, wrong.as_uri(), right.as_uri()), path, begins) == path
    assert path.read_bytes() == b"weights" and len(list(path.parent.iterdir())) == 1


def test_any_clip_with_a_picture_tower(tmp_path, tiny_model):
    torch.manual_seed(0)
    clip = ClipSystem(None, ConvTower(8, (8,), 1, patch=2), 6, size=16)
    it = extractor(str(bundle.save(clip, tmp_path / "small.safetensors")))
    assert it.dim == 6 and it.size == 16 and it.name.startswith("CLIP small ")
    found = kept_contract(it)
    small = extractor(str(tmp_path / "small.safetensors"), resize="rounded")(PICTURES)
    assert 0 < (small - found).abs().max() < 0.1
    with pytest.raises(Problem, match="unknown features 'incepton': neither a file nor one of clip, thumbnails, "):
        extractor("incepton")
    with pytest.raises(Problem, match="holds a Latent, which gives no features"):
        extractor(str(tiny_model))


def test_dinov2_through_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    net = transformers.Dinov2Model(config).eval()
    net.save_pretrained(tmp_path / "dino")
    it = extractor(f"dinov2:{tmp_path / 'dino'}")
    found = kept_contract(it)
    assert it.dim == 16 and it.name.startswith("DINOv2 dino ")
    with torch.no_grad():
        x = resize(PICTURES, 224) / 255
        x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        theirs = net(x).last_hidden_state[:, 0]
    assert torch.allclose(found, theirs, atol=1e-5)
    with pytest.raises(Problem, match="DINOv2 at"):
        extractor(f"dinov2:{tmp_path}")


def test_a_clip_of_another_library(shared, tmp_path):
    """A checkpoint of transformers: its own projected features of the same pictures, resized by us."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "hf"
    shutil.copytree(shared / "fixtures/clip/hf", folder)
    shutil.copytree(shared / "fixtures/tokenizer/tiny", tmp_path / "tokenizer")
    it, theirs = extractor(str(folder)), transformers.CLIPModel.from_pretrained(folder).eval()
    found, look = kept_contract(it), it.clip.look
    mean, std = (torch.tensor(v)[:, None, None] for v in (look.mean, look.std))
    with torch.no_grad():
        seen = theirs.vision_model(pixel_values=(resize(PICTURES, it.size) / 255 - mean) / std)
        told = theirs.visual_projection(seen.pooler_output)
    assert (it.dim, it.size) == (32, 32) and torch.allclose(found, told, rtol=1e-4, atol=1e-5)
