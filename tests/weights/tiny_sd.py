"""A Stable Diffusion of random numbers, as small as can be: the peer's two networks, and a system of ours of them."""

from __future__ import annotations

from typing import Any

import torch

from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import ScaledLinear
from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder
from phosphene.nets.layers import Conventions, SpatialTransformer
from phosphene.nets.transformer import TextTransformer
from phosphene.nets.unet import UNet
from phosphene.systems.latent import Latent
from phosphene.text.clip import ClipTextEncoder, ClipTokenizer
from phosphene.weights import clip, unets
from phosphene.weights.tables import empty, fill

SIZES = dict(channels=(32, 64), layers=1, width=48, heads=2, blocks=3, linear=False, vocabulary=49408)


def peer(seed: int = 0, **told: Any) -> tuple[Any, Any]:
    """diffusers' U-Net and transformers' text encoder of these SIZES, in eval mode; every weight random."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    s = SIZES | told
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=s["channels"],
        layers_per_block=s["layers"],
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=s["width"],
        attention_head_dim=s["heads"],
        use_linear_projection=s["linear"],
    )
    config = CLIPTextConfig(
        vocab_size=s["vocabulary"],
        hidden_size=s["width"],
        intermediate_size=2 * s["width"],
        num_hidden_layers=s["blocks"],
        num_attention_heads=s["heads"],
        hidden_act="quick_gelu",
    )
    return unet.eval(), CLIPTextModel(config).eval()


def ours(
    unet: dict[str, torch.Tensor], text: dict[str, torch.Tensor], tokenizer: ClipTokenizer | None = None, **told: Any
) -> Latent:
    """The same two networks in a system of ours, from their state dicts; the autoencoder is any."""
    s = SIZES | told
    channels = list(s["channels"])
    head_dim = [c // s["heads"] for c in channels]
    how = dict(attend=SpatialTransformer, how=Conventions(groups=32))
    net = empty(lambda: UNet(4, 4, channels, s["layers"], [1, 0], head_dim, s["width"], **how))
    sizes = s["vocabulary"], s["width"], s["blocks"], s.get("text_heads", s["heads"]), 77
    hidden = len(text["text_model.encoder.layers.0.mlp.fc1.weight"])
    tower = empty(lambda: TextTransformer(*sizes, causal=True, act="quick_gelu", hidden=hidden))
    words = {k.removeprefix("text_model."): t for k, t in text.items() if "position_ids" not in k}
    fill(net, unets.diffusers(net, unets.transformer()), unet, what="the peer's U-Net")
    fill(tower, clip.text_entries_hf(s["blocks"]), words, what="the peer's text encoder")
    encoder = ClipTextEncoder(tokenizer or ClipTokenizer.shipped(), tower)
    autoencoder = Autoencoder(ConvEncoder(8, (16, 16), 1, 1), ConvDecoder(4, (16, 16), 1, 1), 4, 2)
    return Latent(Denoiser(net, ScaledLinear()), autoencoder, encoder, size=16, sampler="ddim", steps=3, guidance=4.0)


def prefixed(text: Any) -> dict[str, torch.Tensor]:
    """A text encoder's state dict with text_model. in front, which transformers 5 leaves out."""
    return {f"text_model.{k.removeprefix('text_model.')}": t for k, t in text.state_dict().items()}
