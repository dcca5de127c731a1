"""Adapters, on and off: LoRA, words, another autoencoder, guides. The weights of the model are never touched.

ink = adapt.apply(system, "ink.safetensors", strength=0.8)
ink.strength = 0.5
ink.remove()                       # bitwise the same pictures as before
"""

from .guiding import Guiding, guide
from .low_rank import Adapter, apply, bake, merged, new
from .replaced import Replaced, Word, replace_autoencoder, teach
from .wardrobe import dress, find, spec, wearing
from .worn import Worn, worn

__all__ = [
    "Adapter",
    "Guiding",
    "Replaced",
    "Word",
    "Worn",
    "apply",
    "bake",
    "dress",
    "find",
    "guide",
    "merged",
    "new",
    "replace_autoencoder",
    "spec",
    "teach",
    "wearing",
    "worn",
]
