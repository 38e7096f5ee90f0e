"""Which part of a network is trained, which comes from upstream, and what its normalisation does meanwhile."""

from collections.abc import Callable

from jax import Array

from metapt.types import Mode, Model, PyTree, StatefulModel

# (params, context, extra, x, key) -> (output [B, ...], extra)
Predict = Callable[[PyTree, PyTree, PyTree, PyTree, Array], tuple[Array, PyTree]]


def stateless(apply: Callable[[PyTree, PyTree, PyTree], Array]) -> Predict:
    """`apply(params, context, x)`, which carries nothing and draws nothing.

    Example:
        >>> stateless(lambda params, context, x: params * x)(2.0, None, "carried", 3.0, None)
        (6.0, 'carried')
    """
    return lambda params, context, extra, x, key: (apply(params, context, x), extra)


def whole(model: Model | StatefulModel, mode: Mode = "batch") -> Predict:
    """The stage trains all of `model`; the context plays no part.

    Args:
        mode: of a stateful model, whose running averages are the stage's `extra`.
    """
    run = _run(model, mode)
    return lambda params, context, extra, x, key: run(params, extra, x, key)


def on_features(encoder: Model | StatefulModel, head: Model, mode: Mode = "running") -> Predict:
    """The stage trains `head`; the encoder's parameters are its context (`stages.transfer_features`).

    Args:
        mode: of a stateful encoder, whose running averages are the stage's `extra` (`stages.with_extra`).
    """
    run = _run(encoder, mode)

    def predict(params, context, extra, x, key):
        features, extra = run(context, extra, x, key)
        return head.apply(params, features), extra

    return predict


def _run(model: Model | StatefulModel, mode: Mode):
    if isinstance(model, StatefulModel):
        return lambda params, extra, x, key: model.apply(params, extra, x, key, mode)
    return lambda params, extra, x, key: (model.apply(params, x), extra)
