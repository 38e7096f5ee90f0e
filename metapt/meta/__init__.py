"""5. What is learned on top of pre-training: each a `Meta(init, constrain)`; your own is one line."""

from metapt.meta.initialization import initialization
from metapt.meta.signals import fraction, named, positive, warp_strength
from metapt.meta.training import distilled, penalties
from metapt.meta.weights import (
    example_weights,
    grouped,
    relative_example_weights,
    sigmoid_weights,
    softmax_weights,
    softplus_weights,
)

__all__ = [
    "distilled",
    "example_weights",
    "fraction",
    "grouped",
    "initialization",
    "named",
    "penalties",
    "positive",
    "relative_example_weights",
    "sigmoid_weights",
    "softmax_weights",
    "softplus_weights",
    "warp_strength",
]
