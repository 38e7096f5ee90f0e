"""5. What is learned on top of pre-training: each a `Meta(init, constrain)`; your own is one line."""

from metapt.meta.weights import (
    example_weights,
    grouped,
    relative_example_weights,
    sigmoid_weights,
    softmax_weights,
    softplus_weights,
)

__all__ = [
    "example_weights",
    "grouped",
    "relative_example_weights",
    "sigmoid_weights",
    "softmax_weights",
    "softplus_weights",
]
