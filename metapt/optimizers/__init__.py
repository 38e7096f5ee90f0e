"""Optax-compatible transformations that optax lacks."""

from metapt.optimizers.context import from_context
from metapt.optimizers.pcgrad import merge, pcgrad, replicate

__all__ = ["from_context", "merge", "pcgrad", "replicate"]
