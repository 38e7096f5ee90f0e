"""Which part of a network is trained, and which comes from upstream."""

from collections.abc import Callable

from jax import Array

from metapt.types import Model, PyTree

Predict = Callable[[PyTree, PyTree, PyTree], Array]  # (params, context, x) -> [B, ...]


def whole(model: Model) -> Predict:
    """The stage trains all of `model`; the context plays no part."""
    return lambda params, context, x: model.apply(params, x)


def on_features(encoder: Model, head: Model) -> Predict:
    """The stage trains `head`; the encoder's parameters are its context (`stages.transfer_features`)."""
    return lambda params, context, x: head.apply(params, encoder.apply(context, x))
