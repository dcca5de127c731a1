"""The studies of decoders and latents, on networks that have learned nothing: what they count, not what comes out."""

import json

import pytest
import torch

from phosphene.data.scenes import Scenes
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes import compressed
from phosphene.recipes.scenes.decoders import _denoiser, still_read
from phosphene.studies import Job, decoders, latents, pictures
from phosphene.studies.base import Found
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.upscale import Upscaler
from phosphene.text.encoders import ClassEncoder
from systems.small import awake, made


@pytest.fixture(autouse=True)
def little(monkeypatch, few_draws):
    monkeypatch.setattr(pictures, "SEEN", 32)
    for module in (decoders, latents):
        monkeypatch.setattr(module, "STEPS", (2, 3))
        monkeypatch.setattr(module, "SHOWN", 2)


def found(module, job) -> Found:
    *lines, last = module.STUDY.measured(job)
    assert lines and all(isinstance(line, str) for line in lines) and isinstance(last, Found)
    assert all(len(row) == len(last.columns) for row in last.rows) and last.plot.width > 100
    return last


def test_decoders():
    small, _ = made("enlarger")
    systems = {
        "small": small, "superres": Upscaler(_denoiser(3, 16), size=32, small=8, sampler="ddim"),
        "kl": made("vae")[0], "vq": made("vq")[0], "diffused": made("diffusion_decoder")[0],
    }  # fmt: skip
    it = found(decoders, Job({name: system.eval() for name, system in systems.items()}, 4, 0))
    assert [row[:3] for row in it.rows] == [
        ("small", "a small picture", None), ("superres", "a small picture", 2), ("superres", "a small picture", 3),
        ("kl", "KL latents", None), ("vq", "VQ latents", None),
        ("diffused", "KL latents", 2), ("diffused", "KL latents", 3),
    ]  # fmt: skip
    source = Scenes(32, 4, "test")
    originals = pictures_of(source, 32)
    enlarged = small.autoencoder.decode(small.autoencoder.encode(originals)).detach()
    error = (enlarged.clamp(-1, 1) - originals).square().mean()
    assert it.rows[0][4] == pytest.approx(float(10 * torch.log10(4 / error)), abs=1e-3)
    assert it.pictures["copies"].width > 100


def test_what_is_still_read():
    source = Scenes(32, 6, "test")
    scenes, originals = [source[i].meta["objects"] for i in range(6)], pictures_of(source, 32)
    assert still_read(scenes, originals) == 6
    assert still_read(scenes[1:] + scenes[:1], originals) == 0
    assert still_read(scenes, torch.ones_like(originals)) == 0


def test_latents(tmp_path):
    (tmp_path / "settings.json").write_text(
        json.dumps({"training": {"steps": 10, "precision": "fp32"}, "recipe": {"batch": 2}})
    )
    pixels = made("ddpm_class")[0]
    pixels = Ddpm(pixels.denoiser, ClassEncoder(43, 16), 32, sampler="ddim")
    latent = made("latent_vq_class")[0]
    latent.encoder = ClassEncoder(43, 16, tokens=True)
    systems = {"pixels": awake(pixels), "VQ, f = 4": awake(latent)}
    it = found(latents, Job(systems, 4, 0, dict.fromkeys(systems, tmp_path)))
    (_, n, fewer, spent, flops, right, *_), (_, less, more, *_, ms) = it.rows
    assert (n, fewer, less, more) == (3072, 1.0, 256, 12.0) and flops > 0 and spent > 0 and ms > 0
    assert 0 <= right.low <= right.high <= 1
    assert all(p.grad is None for p in latent.parameters()), "measuring leaves no gradient"
    again, _ = latents.training_cost(pixels, tmp_path)
    (tmp_path / "settings.json").write_text(
        json.dumps({"training": {"steps": 20, "precision": "fp32"}, "recipe": {"batch": 2}})
    )
    assert latents.training_cost(pixels, tmp_path)[0] == pytest.approx(2 * again)


def test_classes_are_read_right():
    source = compressed.OneObject(32, 6, "test")
    labels = [source[i].label for i in range(6)]
    assert compressed.read_right(pictures_of(source, 32), labels) == [True] * 6
    assert compressed.read_right(pictures_of(source, 32), [(k + 1) % 43 for k in labels]) == [False] * 6
    assert compressed.classes(44)[-2:] == [42, 0]
