"""Scenes: coloured shapes in relations, drawn as they are needed. Nothing to download.

What several systems are built on (shared.py: an autoencoder, a CLIP) is trained once; then one file a system.
"""

from phosphene.recipes.scenes.latent import latent
from phosphene.recipes.scenes.shared import autoencoder, clip

__all__ = ["autoencoder", "clip", "latent"]
