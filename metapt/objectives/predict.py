"""Which part of a network is trained, which comes from upstream, and what its normalisation does meanwhile."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

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

    Example:
        >>> times = Model(init=lambda key: 1.0, apply=lambda params, x: params * x)
        >>> whole(times)(2.0, None, None, 3.0, None)
        (6.0, None)
    """
    run = _run(model, mode)
    return lambda params, context, extra, x, key: run(params, extra, x, key)


def on_features(encoder: Model | StatefulModel, head: Model, mode: Mode = "running") -> Predict:
    """The stage trains `head`; the encoder's parameters are its context (`stages.transfer_features`).

    Args:
        mode: of a stateful encoder, whose running averages are the stage's `extra` (`stages.with_extra`).

    Example:
        >>> times = Model(init=lambda key: 1.0, apply=lambda params, x: params * x)
        >>> on_features(times, times)(2.0, 10.0, None, 3.0, None)  # 2 is the head, 10 the encoder
        (60.0, None)
    """
    run = _run(encoder, mode)

    def predict(params, context, extra, x, key):
        features, extra = run(context, extra, x, key)
        return head.apply(params, features), extra

    return predict


def in_bfloat16(predict: Predict) -> Predict:
    """The same network computed in bfloat16, between parameters and a loss in float32.

    Parameters, context and examples are rounded on the way in, outputs come back as float32, and so do all derivatives, as
    the derivative of a rounding is a rounding. Optimizer, meta-parameters and solver never see bfloat16. `extra` keeps
    its types. What it costs in accuracy: docs/distributed.md.

    Hessian products alone can be in float32: `implicit(stage, solve, curvature=objective(predict))`.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1; bfloat16 needs no scaling of the loss.

    Example:
        >>> exact = stateless(lambda params, context, x: params * x)
        >>> round(float(exact(jnp.float32(1.001), None, None, jnp.ones(()), None)[0]), 4)
        1.001
        >>> rounded, _ = in_bfloat16(exact)(jnp.float32(1.001), None, None, jnp.ones(()), None)
        >>> float(rounded), rounded.dtype.name
        (1.0, 'float32')
    """

    def predicted(params, context, extra, x, key):
        params, context, x = _cast((params, context, x), jnp.bfloat16)
        output, moved = predict(params, context, extra, x, key)
        return _cast(output, jnp.float32), jax.tree.map(lambda new, old: new.astype(old.dtype), moved, extra)

    return predicted


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Its floating leaves; labels, keys and indices stay as they are."""
    floating = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if floating(leaf) else leaf, tree)


def _run(model: Model | StatefulModel, mode: Mode):
    if isinstance(model, StatefulModel):
        return lambda params, extra, x, key: model.apply(params, extra, x, key, mode)
    return lambda params, extra, x, key: (model.apply(params, x), extra)
