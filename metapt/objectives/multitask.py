"""Many labels an example, weighted by task; labels below 0 were not measured."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.objectives.predict import Predict
from metapt.types import Objective


def weighted_tasks(predict: Predict) -> Objective:
    """Mean over the measured labels of w_t * binary cross-entropy, with `w = context`, `[T]`. Batch: `(x [B, ...], y [B, T])`.

    A label is 0 or 1, or below 0 if it was not measured; a batch without any has the loss 0.

    Source: Raghu et al. 2021, section 4.1, and their code (a mean, not a sum).

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = weighted_tasks(stateless(lambda params, context, x: x * params))
        >>> y = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [0.0, 0.0]])
        >>> loss, _ = objective(0.0, jnp.array([2.5, 0.0]), None, (jnp.ones((4, 2)), y), None)
        >>> round(float(loss), 4)  # 3 of 5 measured labels count, 2.5 times
        1.0397
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        logits, extra = predict(params, context, extra, x, key)
        return jnp.sum(context * task_losses(logits, y)), extra

    return objective


def binary_tasks(predict: Predict) -> Objective:
    """Mean over the measured labels of binary cross-entropy, whatever the context. Batch: `(x [B, ...], y [B, T])`.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = binary_tasks(stateless(lambda params, context, x: x * params))
        >>> round(float(objective(0.0, None, None, (jnp.ones((1, 2)), jnp.array([[1.0, -1.0]])), None)[0]), 4)
        0.6931
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        logits, extra = predict(params, context, extra, x, key)
        return jnp.sum(task_losses(logits, y)), extra

    return objective


def balanced_tasks(predict: Predict) -> Objective:
    """As `binary_tasks`, but in every task the 1s together count as much as the 0s. Tasks without both are left out.

    Where 1s are rare, the plain loss speaks of how rare they are; this one of how well they can be told, as the area under
    the ROC curve does.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = balanced_tasks(stateless(lambda params, context, x: x * params))
        >>> y = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
        >>> round(float(objective(0.0, None, None, (jnp.ones((3, 2)), y), None)[0]), 4)
        0.6931
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        logits, extra = predict(params, context, extra, x, key)
        losses = optax.sigmoid_binary_cross_entropy(logits, y.astype(logits.dtype))
        counts = jnp.stack([(y == label).sum(axis=0) for label in (0, 1)])
        sums = jnp.stack([jnp.sum(losses, axis=0, where=y == label) for label in (0, 1)])
        both = (counts > 0).all(axis=0)
        by_task = jnp.mean(sums / jnp.maximum(counts, 1), axis=0)
        return jnp.sum(by_task, where=both) / jnp.maximum(both.sum(), 1), extra

    return objective


def weighted_squares(predict: Predict) -> Objective:
    """Sum over tasks of w_t * mean squared error, with `w = context`, `[T]`. Batch: `(x [B, ...], y [B, T, ...])`.

    Example:
        >>> from metapt.objectives import stateless
        >>> objective = weighted_squares(stateless(lambda params, context, x: x * params))
        >>> float(objective(0.0, jnp.array([1.0, 0.5]), None, (jnp.ones((1, 2)), jnp.array([[1.0, 4.0]])), None)[0])
        9.0
    """

    def objective(params, context, extra, batch, key):
        x, y = batch
        output, extra = predict(params, context, extra, x, key)
        squares = (output - y) ** 2
        return context @ squares.mean(axis=[axis for axis in range(squares.ndim) if axis != 1]), extra

    return objective


def task_losses(logits: Array, y: Array) -> Array:
    """Every task's share of the mean over all measured labels, `[B, T], [B, T] -> [T]`; they sum to that mean.

    Example:
        >>> [round(float(loss), 4) for loss in task_losses(jnp.zeros((2, 2)), jnp.array([[1, 0], [1, -1]]))]
        [0.4621, 0.231]
    """
    measured = y >= 0
    losses = optax.sigmoid_binary_cross_entropy(logits, y.astype(logits.dtype))
    return jnp.sum(losses, axis=0, where=measured) / jnp.maximum(measured.sum(), 1)


def auroc(scores: Array, y: Array) -> Array:
    """Area under the ROC curve of every task: `[B, T], [B, T] -> [T]`; NaN where a task lacks a class, or a score is NaN.

    The share of pairs (a 1, a 0) that the scores put in the right order, ties counting half. Labels below 0 are left out.

    Example:
        >>> scores, y = jnp.array([[0.1], [0.4], [0.35], [0.8], [9.0]]), jnp.array([[0], [0], [1], [1], [-1]])
        >>> auroc(scores, y).tolist()
        [0.75]
    """
    positive, negative = y == 1, y == 0

    def area(scores, positive, negative):
        rivals = jnp.sort(jnp.where(negative, scores, jnp.inf))
        below = jnp.searchsorted(rivals, scores, side="left")
        not_above = jnp.minimum(jnp.searchsorted(rivals, scores, side="right"), negative.sum())
        pairs = positive.sum() * negative.sum()
        known = (pairs > 0) & ~jnp.isnan(scores).any()
        return jnp.where(known, jnp.sum((below + not_above) / 2, where=positive) / jnp.maximum(pairs, 1), jnp.nan)

    return jax.vmap(area, in_axes=1)(scores, positive, negative)
