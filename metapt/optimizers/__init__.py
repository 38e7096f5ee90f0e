"""Optax-compatible transformations that optax lacks."""

from metapt.optimizers.pcgrad import merge, pcgrad, replicate

__all__ = ["merge", "pcgrad", "replicate"]
