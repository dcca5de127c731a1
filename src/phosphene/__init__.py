"""Phosphene: pictures out of noise. Importing this package imports neither torch nor anything heavy."""

__version__ = "0.1.0"
