"""Gradients of several losses that do not pull against each other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.types import PyTree


class PCGradState(NamedTuple):
    """The key that orders the losses, as plain numbers: a state is saved like any other."""

    key_data: Array


def pcgrad(shared: PyTree = True, seed: int = 0) -> optax.GradientTransformation:
    """Projects every loss's gradient off each other gradient that it conflicts with, in random order, and adds them up.

        g_i <- g_i - (g_i . g_j / |g_j|^2) g_j   wherever g_i . g_j < 0, with g_j as it was

    The gradients are stacked: leaves `[L, ...]`, one row a loss. So are the updates, all rows alike: chain the optimizer
    behind it, and L copies of the parameters (`replicate`) stay equal. To get the stack from one objective, let loss i see copy i
    of the parameters; then the gradient of their sum holds every loss's own.

    Args:
        shared: which parts of the tree the losses share: booleans in a prefix of it, for example
            `{"encoder": True, "head": False}`. Only those decide on conflicts and are projected; the others are added up.

    Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1.

    Example:
        >>> project = pcgrad()
        >>> stacked = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
        >>> updates, _ = project.update(stacked, project.init(stacked))
        >>> updates.tolist()
        [[0.5, 1.5], [0.5, 1.5]]
    """

    def init(params: PyTree) -> PCGradState:
        return PCGradState(jax.random.key_data(jax.random.key(seed)))

    def update(updates, state, params=None):
        key, order_key = jax.random.split(jax.random.wrap_key_data(state.key_data))
        common = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), shared, updates)
        pairs = list(zip(jax.tree.leaves(updates), jax.tree.leaves(common), strict=True))
        losses = len(pairs[0][0])
        gram = sum((_gram(leaf) for leaf, flag in pairs if flag), jnp.zeros((losses, losses)))
        keys = jax.random.split(order_key, losses)
        # The sum of the projected gradients is a combination of the original ones.
        weights = jnp.stack([_project(gram, i, keys[i]) for i in range(losses)]).sum(axis=0)

        def combine(leaf, flag):
            rows = weights if flag else jnp.ones(losses)
            return jnp.broadcast_to(jnp.tensordot(rows.astype(leaf.dtype), leaf, 1), leaf.shape)

        return jax.tree.map(combine, updates, common), PCGradState(jax.random.key_data(key))

    return optax.GradientTransformation(init, update)


def replicate(params: PyTree, losses: int) -> PyTree:
    """A copy for every loss: leaves `[...] -> [losses, ...]`.

    Example:
        >>> replicate(jnp.array([1.0, 2.0]), losses=2).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (losses, *jnp.shape(leaf))), params)


def merge(copies: PyTree) -> PyTree:
    """The parameters again: the first of the equal copies.

    Example:
        >>> merge(replicate(jnp.array([1.0, 2.0]), losses=2)).tolist()
        [1.0, 2.0]
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(copies)]
    if any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError(f"merge: copies has leaves {shapes}, but must have [losses, ...] as `replicate` makes them")
    return jax.tree.map(lambda leaf: leaf[0], copies)


def _gram(leaf: Array) -> Array:
    rows = leaf.reshape(len(leaf), -1)
    return rows @ rows.T


def _project(gram: Array, i: int, key: Array) -> Array:
    """Coefficients of loss i's projected gradient in the original gradients, from their inner products `[L, L]`."""

    def against(coefficients, j):
        along, size = coefficients @ gram[:, j], gram[j, j]
        conflict = (along < 0) & (j != i)  # then size > 0
        step = jnp.where(conflict, along / jnp.where(conflict, size, 1.0), 0.0)
        return coefficients.at[j].add(-step), None

    order = jax.random.permutation(key, len(gram))
    return jax.lax.scan(against, jnp.zeros(len(gram), gram.dtype).at[i].set(1.0), order)[0]
