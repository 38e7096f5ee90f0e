"""Losses and gradients of single tasks, from an objective that is linear in their weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from metapt.types import Objective, PyTree


def single_gradients(
    objective: Objective,
    tasks: int,
    whole: Callable[[PyTree], PyTree],
    part: PyTree,
    extra: PyTree,
    batch: PyTree,
    key: Array,
) -> tuple[Array, Callable[[Array], tuple[PyTree]]]:
    """Every task's loss `[T]`, and `pull(v) -> (gradient of v @ losses with respect to part,)`, one backward pass a call.

    Args:
        objective: linear in its context, the weights `[tasks]`.
        whole: from the part that is differentiated to all parameters.
    """
    loss = lambda weights, part: objective(whole(part), weights, extra, batch, key)[0]
    return jax.vjp(lambda part: jax.grad(loss)(jnp.ones(tasks), part), part)
