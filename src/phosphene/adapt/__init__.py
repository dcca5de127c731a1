"""Adapters, on and off: LoRA, textual inversion, another autoencoder. The weights of the model are never touched.

ink = adapt.apply(system, "ink.safetensors", strength=0.8)
ink.strength = 0.5
ink.remove()                       # bitwise the same pictures as before
"""

from .low_rank import Adapter, apply, bake, new
from .replaced import Replaced, Word, replace_autoencoder, teach
from .wardrobe import dress, find, spec, wearing
from .worn import Worn, worn

__all__ = [
    "Adapter",
    "Replaced",
    "Word",
    "Worn",
    "apply",
    "bake",
    "dress",
    "find",
    "new",
    "replace_autoencoder",
    "spec",
    "teach",
    "wearing",
    "worn",
]
