"""The largest eigenvalue of an operator, which sets a Neumann step and the scale of a damping."""

from collections.abc import Callable

import jax
import optax
from jax import Array, lax

from metapt.checks import real
from metapt.types import Matvec, PyTree

POWER_ITERATIONS = 10


def largest_eigenvalue(matvec: Matvec, like: PyTree, steps: int = POWER_ITERATIONS) -> Array:
    """The largest absolute eigenvalue of a symmetric operator, from below, by power iteration from a fixed random start.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(largest_eigenvalue(lambda v: jnp.array([1.0, -5.0]) * v, jnp.zeros(2))), 3)
        5.0
    """

    def body(carry, _):
        direction, _ = carry
        product = matvec(direction)
        size = optax.tree.norm(product)
        return (optax.tree.scale(1.0 / size, product), size), None

    start = optax.tree.random_like(jax.random.key(0), like)
    start = optax.tree.scale(1.0 / optax.tree.norm(start), start)
    (_, size), _ = lax.scan(body, (start, optax.tree.norm(start)), length=steps)
    return size


def relative(share: float) -> Callable[[Matvec, PyTree], Array]:
    """A damping of `share` times the largest absolute eigenvalue: `cg(20, damping=relative(1e-3))`.

    It follows the scale of the loss: with `c A` and `c b` in place of `A` and `b`, x stays as it is. It costs the ten
    products of `largest_eigenvalue`. A rule of your own is any function `(matvec, like) -> damping`.

    Raises:
        ValueError: if `share <= 0`.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(relative(0.01)(lambda v: jnp.array([1.0, -5.0]) * v, jnp.zeros(2))), 3)
        0.05
    """
    real("relative: share", share, above=0, why="a share of the largest eigenvalue, for example 1e-3")
    return lambda matvec, like: share * largest_eigenvalue(matvec, like)
