"""One label an example."""

import jax.numpy as jnp
import optax
from jax import Array

from metapt.objectives.predict import Predict
from metapt.types import Objective


def cross_entropy(predict: Predict) -> Objective:
    """Mean over the batch of -log softmax(logits)[y]. Batch: `(x [B, ...], y int [B])`.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = cross_entropy(stateless(lambda params, context, x: x * params))
        >>> loss, _ = objective(0.0, None, None, (jnp.ones((4, 10)), jnp.zeros(4, int)), None)
        >>> round(float(loss), 4), round(float(jnp.log(10.0)), 4)
        (2.3026, 2.3026)
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        logits, extra = predict(params, context, extra, x, key)
        return _cross_entropy(logits, y).mean(), extra

    return objective


def weighted_cross_entropy(predict: Predict) -> Objective:
    """Mean over the batch of w_i * cross-entropy_i, with `w = context(batch)`, `[B]` (`meta.example_weights`).

    Batch: `(x [B, ...], y int [B], ...)`; what stands behind the label is for the weights alone.

    Source: Raghu et al. 2021, section 5.1.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = weighted_cross_entropy(stateless(lambda params, context, x: x * params))
        >>> half = lambda batch: jnp.array([1.0, 0.0])
        >>> loss, _ = objective(0.0, half, None, (jnp.ones((2, 10)), jnp.zeros(2, int)), None)
        >>> round(float(loss), 4)
        1.1513
    """

    def objective(params, context, extra, batch, key):
        x, y, *_ = batch
        logits, extra = predict(params, context, extra, x, key)
        return (context(batch) * _cross_entropy(logits, y)).mean(), extra

    return objective


def squared_error(predict: Predict) -> Objective:
    """Mean over the batch and the outputs of `(prediction - y)^2`. Batch: `(x [B, ...], y [B, ...])`, y shaped as predictions.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = squared_error(stateless(lambda params, context, x: x * params))
        >>> float(objective(3.0, None, None, (jnp.ones((4, 1)), jnp.ones((4, 1))), None)[0])
        4.0
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        prediction, extra = predict(params, context, extra, x, key)
        if prediction.shape != y.shape:
            raise ValueError(f"squared_error: predictions {prediction.shape} and y {y.shape} must have the same shape")
        return optax.losses.squared_error(prediction, y).mean(), extra

    return objective


def accuracy(logits: Array, y: Array) -> Array:
    """Fraction of rows whose largest logit is at their label: `[B, C], [B] -> []`.

    Example:
        >>> float(accuracy(jnp.eye(4), jnp.array([0, 1, 2, 0])))
        0.75
    """
    return (logits.argmax(-1) == jnp.asarray(y)).mean()


def _cross_entropy(logits: Array, y: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)
