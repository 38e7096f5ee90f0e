"""Conjugate gradients, with a stop at negative curvature and a report; jax's own tells neither."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array, lax

from metapt.checks import real, whole
from metapt.solvers.solver import Damping, Solved, inner, solver
from metapt.types import Matvec, PyTree, Solve


class _State(NamedTuple):
    x: PyTree
    residual: PyTree  # r = b - A x
    direction: PyTree  # p
    square: Array  # r.r
    steps: Array
    negative: Array


def cg(max_steps: int, damping: Damping = 0.0, tol: float = 1e-10) -> Solve:
    """X with (A + damping I) x = b: exact after as many steps as A has distinct eigenvalues, if all are positive.

    Stops at `|r| <= tol |b|`, after `max_steps`, or at a direction of non-positive curvature, with the iterate before it.

    Source: Hestenes and Stiefel 1952.

    Example:
        >>> x, info = cg(max_steps=2)(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [round(float(value), 4) for value in x], bool(info.residual < 1e-5)
        ([1.0, 0.25], True)
    """
    whole("cg: max_steps", max_steps)
    real("cg: tol", tol, least=0)

    def method(A: Matvec, b: PyTree, _) -> Solved:
        square = inner(b, b)

        def unfinished(s: _State):
            return (s.square > tol**2 * square) & (s.steps < max_steps) & ~s.negative

        def body(s: _State):
            product = A(s.direction)
            curvature = inner(s.direction, product)
            negative = curvature <= 0
            alpha = jnp.where(negative, 0.0, s.square / jnp.where(negative, 1.0, curvature))
            residual = optax.tree.add_scale(s.residual, -alpha, product)
            next_square = inner(residual, residual)
            direction = optax.tree.add_scale(residual, next_square / s.square, s.direction)
            x = optax.tree.add_scale(s.x, alpha, s.direction)
            return _State(x, residual, direction, next_square, s.steps + 1, negative)

        first = _State(optax.tree.zeros_like(b), b, b, square, jnp.array(0), jnp.array(False))
        end = lax.while_loop(unfinished, body, first)
        contraction = (end.square / square) ** (0.5 / jnp.maximum(end.steps, 1))
        return Solved(end.x, optax.tree.sub(b, A(end.x)), contraction, end.negative)

    return solver(method, damping, "cg: damping")
