"""Training: the loop, averaged weights, checkpoints, the run folder, the display."""

from phosphene.training.ema import ema_weights
from phosphene.training.loop import train
from phosphene.training.progress import Progress
from phosphene.training.settings import Settings

__all__ = ["Progress", "Settings", "ema_weights", "train"]
