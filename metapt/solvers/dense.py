"""The exact solve, from the whole matrix: for tests and for a few thousand unknowns."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metapt.solvers.report import damped, solve_info
from metapt.types import Matvec, PyTree, Solve, SolveInfo


def dense(damping: float = 0.0) -> Solve:
    """X = (A + damping I)^-1 b through the n x n matrix: n products, n^2 numbers, n^3 operations.

    Example:
        >>> x, info = dense()(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [float(value) for value in x], float(info.residual)
        ([1.0, 0.25], 0.0)
    """

    def solve(matvec: Matvec, b: PyTree) -> tuple[PyTree, SolveInfo]:
        flat, unravel = ravel_pytree(b)
        A = damped(lambda v: ravel_pytree(matvec(unravel(v)))[0], damping, "dense")
        matrix = jax.vmap(A)(jnp.eye(flat.size, dtype=flat.dtype))  # rows, which are columns: A is symmetric
        x = jnp.linalg.solve(matrix, flat)
        negative = jnp.linalg.eigvalsh(matrix)[0] < 0
        return unravel(x), solve_info(x, flat - matrix @ x, flat, jnp.zeros(()), negative)

    return solve
