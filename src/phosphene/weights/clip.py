"""CLIP as OpenAI, open_clip and Hugging Face write it.

Two sets of names for one network: OpenAI's, which open_clip kept, with q, k and v packed into one matrix and
projections that stand on the right (x @ P); and Hugging Face's.
"""

from __future__ import annotations

from .tables import Entry, Packed, entry, layer, under

QKV = ("to_q", "to_k", "to_v")


def block_entries_hf() -> list[Entry]:
    """One block of a tower, Hugging Face's names."""
    return [
        *layer("norm1", "layer_norm1"),
        *layer("norm2", "layer_norm2"),
        *[e for q in "qkv" for e in layer(f"attn.to_{q}", f"self_attn.{q}_proj")],
        *layer("attn.to_out", "self_attn.out_proj"),
        *layer("mlp.fc1", "mlp.fc1"),
        *layer("mlp.fc2", "mlp.fc2"),
    ]


def block_entries_open_clip() -> list[Entry]:
    """One block of a tower, OpenAI's and open_clip's names."""
    packed = [f"attn.{name}" for name in QKV]
    return [
        *layer("norm1", "ln_1"),
        *layer("norm2", "ln_2"),
        entry([f"{name}.weight" for name in packed], "attn.in_proj_weight", Packed()),
        entry([f"{name}.bias" for name in packed], "attn.in_proj_bias", Packed()),
        *layer("attn.to_out", "attn.out_proj"),
        *layer("mlp.fc1", "mlp.c_fc"),
        *layer("mlp.fc2", "mlp.c_proj"),
    ]


def text_entries_hf(layers: int) -> list[Entry]:
    """A TextTransformer in what lies under `text_model.` of a Hugging Face CLIP."""
    return [
        entry("token.weight", "embeddings.token_embedding.weight"),
        entry("position", "embeddings.position_embedding.weight"),
        *[e for i in range(layers) for e in under(f"blocks.{i}.", f"encoder.layers.{i}.", block_entries_hf())],
        *layer("norm", "final_layer_norm"),
    ]


def text_entries_open_clip(layers: int) -> list[Entry]:
    """A TextTransformer in an OpenAI or open_clip file; the projection and the temperature beside it are not here."""
    blocks = [under(f"blocks.{i}.", f"transformer.resblocks.{i}.", block_entries_open_clip()) for i in range(layers)]
    return [
        entry("token.weight", "token_embedding.weight"),
        entry("position", "positional_embedding"),
        *[e for block in blocks for e in block],
        *layer("norm", "ln_final"),
    ]
