"""Random batches as one gather, inside jit: nothing returns to the host."""

import jax
from jax import Array

from metapt.types import PyTree


def draw(key: Array, arrays: PyTree, steps: int, size: int) -> PyTree:
    """`steps` batches of `size` rows, drawn with replacement: leaves `[N, ...] -> [steps, size, ...]`.

    Example:
        >>> import jax.numpy as jnp
        >>> draw(jax.random.key(0), {"x": jnp.ones((100, 3)), "y": jnp.ones(100)}, steps=4, size=8)["x"].shape
        (4, 8, 3)
    """
    if steps < 1 or size < 1:
        raise ValueError(f"draw: steps={steps} and size={size} must be at least 1")
    rows = jax.tree.leaves(arrays)[0].shape[0]
    index = jax.random.randint(key, (steps, size), 0, rows)
    return jax.tree.map(lambda a: a[index], arrays)
