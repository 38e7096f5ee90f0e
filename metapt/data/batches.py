"""Random batches as one gather, inside jit: nothing returns to the host."""

import jax
from jax import Array

from metapt.checks import whole
from metapt.types import PyTree


def draw(key: Array, arrays: PyTree, steps: int, size: int) -> PyTree:
    """`steps` batches of `size` rows, drawn with replacement: leaves `[N, ...] -> [steps, size, ...]`.

    Example:
        >>> import jax.numpy as jnp
        >>> draw(jax.random.key(0), {"x": jnp.ones((100, 3)), "y": jnp.ones(100)}, steps=4, size=8)["x"].shape
        (4, 8, 3)
    """
    whole("draw: steps", steps)
    whole("draw: size", size)
    found = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)}
    if len(found) != 1 or 0 in found:
        raise ValueError(f"draw: every leaf must have the same rows [N, ...] with N >= 1, found {sorted(found)}")
    rows = found.pop()
    index = jax.random.randint(key, (steps, size), 0, rows)
    return jax.tree.map(lambda a: a[index], arrays)
