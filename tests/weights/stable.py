"""What the tests of Stable Diffusion share: how close is close, and diffusers' pipelines of random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.parts import part


def close(ours: Tensor, theirs: Any, tolerance: float) -> None:
    """max |difference| / mean |theirs| at most `tolerance`."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    found = float((ours - theirs).abs().max() / theirs.abs().mean())
    assert found <= tolerance, f"{found:.2g} > {tolerance:.2g}"


@part
class Rounded(nn.Module):
    """A network that is asked at whole times only."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.multiple = net, net.multiple

    def forward(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        return self.net(x, time.round(), cond)


def tokenizer_folder(folder: Path, words: tuple[str, ...] = ("cat", "red", "cube", "the", "a")) -> Path:
    """vocab.json and merges.txt of a byte-pair encoding with a few merges, as CLIP's; "!" is number 0."""
    import json

    from phosphene.text.clip import END, START, ClipTokenizer

    letters = list(ClipTokenizer.shipped().bpe.get_vocab(False).items())
    letters = [token for token, _ in sorted(letters, key=lambda pair: pair[1])[:512]]
    merges, made = [], []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces[:2] = [pieces[0] + pieces[1]]
            made.append(pieces[0])
    merges, made = list(dict.fromkeys(merges)), list(dict.fromkeys(made))
    vocabulary = {token: i for i, token in enumerate([*letters, *made, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


def pipeline(folder: Path, version: int = 1, seed: int = 0, groups: int = 16, **unet: Any) -> Any:
    """diffusers' StableDiffusionPipeline, tiny and random, in sizes that the recorded ones do not have."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    pad = "<|endoftext|>" if version == 1 else "!"
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder(folder), pad_token=pad, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=60,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_act="quick_gelu" if version == 1 else "gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    net = UNet2DConditionModel(
        **dict(
            sample_size=8,
            block_out_channels=(32, 64, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=4 if version == 1 else (2, 4, 6),
            use_linear_projection=version == 2,
            norm_num_groups=groups,
        )
        | unet
    )
    vae = AutoencoderKL(
        block_out_channels=(groups, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=min(groups, 16) if groups < 32 else groups,
        latent_channels=4,
        scaling_factor=0.3,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon" if version == 1 else "v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=net.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
