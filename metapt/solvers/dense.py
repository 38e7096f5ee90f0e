"""The exact solve, from the whole matrix: for tests and for a few thousand unknowns."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metapt.solvers.solver import Damping, Solved, solver
from metapt.types import Matvec, PyTree, Solve


def dense(damping: Damping = 0.0) -> Solve:
    """X = (A + damping I)^-1 b through the n x n matrix: n products, n^2 numbers, n^3 operations.

    Example:
        >>> x, info = dense()(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [float(value) for value in x], float(info.residual)
        ([1.0, 0.25], 0.0)
    """

    def method(A: Matvec, b: PyTree, _) -> Solved:
        flat, unravel = ravel_pytree(b)
        column = lambda v: ravel_pytree(A(unravel(v)))[0]
        matrix = jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))
        x = jnp.linalg.solve(matrix, flat)
        return Solved(unravel(x), flat - matrix @ x, 0.0, jnp.linalg.eigvalsh(matrix)[0] < 0)

    return solver(method, damping, "dense: damping")
