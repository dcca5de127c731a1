"""Recipes: Python functions, one a trainable thing. `phosphene train NAME --knob value` calls them.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

from phosphene.recipes import cifar10, clip, emoji, mnist, scenes
from phosphene.recipes.base import Plan, Recipe, recipe

RECIPES: dict[str, Callable[..., Recipe]] = {
    "mnist.ddpm": mnist.ddpm,
    "mnist.binomial": mnist.binomial,
    "cifar10.ddpm": cifar10.ddpm,
    "cifar10.clip": cifar10.clip,
    "clip.small": clip.small,
    "scenes.autoencoder": scenes.autoencoder,
    "scenes.clip": scenes.clip,
    "scenes.latent": scenes.latent,
    "scenes.ddpm": scenes.ddpm,
    "scenes.ncsn": scenes.ncsn,
    "scenes.kl": scenes.kl,
    "scenes.vq": scenes.vq,
    "scenes.small": scenes.small,
    "scenes.superres": scenes.superres,
    "scenes.diffused": scenes.diffused,
    "scenes.classifier": scenes.classifier,
    "scenes.clip_noised": scenes.clip_noised,
    "scenes.glide": scenes.glide,
    "scenes.glide_upscale": scenes.glide_upscale,
    "scenes.glide_inpaint": scenes.glide_inpaint,
    "scenes.glide_like": scenes.glide_like,
    "scenes.prior": scenes.prior,
    "scenes.ar_prior": scenes.ar_prior,
    "scenes.unclip": scenes.unclip,
    "scenes.unclip_upscale": scenes.unclip_upscale,
    "scenes.imagen": scenes.imagen,
    "scenes.imagen_upscale": scenes.imagen_upscale,
    "scenes.kl8": scenes.kl8,
    "scenes.kl16": scenes.kl16,
    "scenes.kl48": scenes.kl48,
    "scenes.in_pixels": scenes.in_pixels,
    "scenes.in_kl": scenes.in_kl,
    "scenes.in_vq": scenes.in_vq,
    "scenes.in_kl8": scenes.in_kl8,
    "scenes.in_kl16": scenes.in_kl16,
    "scenes.in_kl48": scenes.in_kl48,
    "scenes.layout": scenes.layout,
    "scenes.map": scenes.map,
    "emoji.autoencoder": emoji.autoencoder,
    "emoji.clip": emoji.clip,
    "emoji.latent": emoji.latent,
    "emoji.prior": emoji.prior,
    "emoji.unclip": emoji.unclip,
    "emoji.unclip_upscale": emoji.unclip_upscale,
    "emoji.glide": emoji.glide,
    "emoji.glide_upscale": emoji.glide_upscale,
    "emoji.imagen": emoji.imagen,
    "emoji.imagen_upscale": emoji.imagen_upscale,
}

__all__ = ["RECIPES", "Plan", "Recipe", "recipe"]
