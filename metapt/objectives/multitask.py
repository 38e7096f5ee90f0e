"""Many labels an example, weighted by task."""

import jax.numpy as jnp
import optax

from metapt.objectives.predict import Predict
from metapt.types import Objective


def weighted_tasks(predict: Predict) -> Objective:
    """Mean over batch and tasks of w_t * binary cross-entropy, with `w = context`, `[T]`. Batch: `(x [B, ...], y [B, T])`.

    Source: Raghu et al. 2021, section 4.1, and their code (a mean, not a sum).

    Example:
        >>> objective = weighted_tasks(lambda params, context, x: x * params)
        >>> loss, _ = objective(0.0, jnp.array([2.0, 0.0]), None, (jnp.ones((4, 2)), jnp.ones((4, 2))), None)
        >>> round(float(loss), 4)
        0.6931
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        by_task = optax.sigmoid_binary_cross_entropy(predict(params, context, x), y).mean(axis=0)
        return jnp.mean(context * by_task), extra

    return objective
