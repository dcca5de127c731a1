"""inspect of what is not whole: what is there is shown, and what is not is said."""

from __future__ import annotations

import shutil

import pytest
import torch

from phosphene.cli import main
from phosphene.nets.transformer import TextTransformer
from phosphene.systems.clip import ClipSystem
from phosphene.text.clip import ClipTextEncoder, ClipTokenizer
from phosphene.text.hugging import HuggingEncoder
from phosphene.weights import bundle
from phosphene.weights.save import save_as
from weights.stable import tokenizer_folder


@pytest.fixture
def shown(capsys):
    """(exit code, stdout, stderr) of `phosphene inspect` of a path."""

    def run(path) -> tuple[int, str, str]:
        capsys.readouterr()
        return (main(["inspect", str(path)]), *capsys.readouterr())

    return run


def clip(tokenizer: ClipTokenizer) -> ClipSystem:
    torch.manual_seed(0)
    text = TextTransformer(len(tokenizer), 32, 1, 4, 77, True, "quick_gelu", 64)
    return ClipSystem(ClipTextEncoder(tokenizer, text, pooled=True, long=False), None, 32)


@pytest.mark.parametrize("part", ["tokenizer", "vae", "text_encoder", "scheduler"])
def test_a_pipeline_without_one_of_its_folders(pipeline, shown, tmp_path, part):
    pipeline(1).save_pretrained(tmp_path / "sd")
    _, whole, _ = shown(tmp_path / "sd")
    total = whole.split(" parameters")[0].split()[-1]
    shutil.rmtree(tmp_path / "sd" / part)
    code, out, err = shown(tmp_path / "sd")
    assert code == 2 and str(tmp_path / "sd" / part) in err and err.count("\n") == 1
    assert "sd: StableDiffusionPipeline, " in out and "sha256" in out
    assert f"missing: {part}, a " in out and out.count("missing:") == 1
    [unet] = [line for line in out.splitlines() if "UNet2DConditionModel" in line]
    assert "unet/diffusion_pytorch_model.safetensors" in unet and " parameters (F32 100.0 %)" in unet
    counted = [int(line.split(" parameters")[0].split()[-1].replace(",", "")) for line in out.splitlines()[1:-1]]
    assert part in ("vae", "text_encoder") or sum(counted) == int(total.replace(",", ""))


def test_a_clip_without_its_vocabulary(shown, tmp_path):
    save_as(clip(ClipTokenizer.from_folder(tokenizer_folder(tmp_path / "words"))), tmp_path / "clip", "hf-clip")
    code, out, _ = shown(tmp_path / "clip")
    assert code == 0 and "note:" not in out
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (tmp_path / "clip" / name).unlink(missing_ok=True)
    code, out, err = shown(tmp_path / "clip")
    assert code == 2 and "model.safetensors: CLIPTextModel" in out and " parameters (F32" in out
    assert "holds no tokenizer" in err and "tokenizer=FOLDER" in err


def test_that_the_shipped_vocabulary_was_taken_is_noted(shown, tmp_path):
    save_as(clip(ClipTokenizer.shipped()), tmp_path / "clip", "hf-clip")
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (tmp_path / "clip" / name).unlink(missing_ok=True)
    code, out, _ = shown(tmp_path / "clip")
    assert code == 0 and f"note: {tmp_path / 'clip'} holds no tokenizer: taken is OpenAI's" in out


def test_a_bundle_says_which_words_are_not_in_it(shown, tmp_path):
    (tmp_path / "t5").mkdir()
    bundle.save(HuggingEncoder(str(tmp_path / "t5"), str(tmp_path / "words")), tmp_path / "encoder.safetensors")
    code, out, _ = shown(tmp_path / "encoder.safetensors")
    assert code == 0 and "HuggingEncoder" in out
    assert [line.split(",")[0] for line in out.splitlines() if "missing" in line] == [f"missing: {tmp_path / 'words'}"]
