"""The minimum residual method: the Krylov method for curvature of both signs."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array, lax

from metapt.checks import real, whole
from metapt.solvers.solver import Damping, Solved, inner, solver
from metapt.types import Matvec, PyTree, Solve


class _State(NamedTuple):
    x: PyTree
    v: PyTree  # Lanczos vector v_k, and the one before
    v_before: PyTree
    beta: Array  # A v_k = beta_k v_(k-1) + alpha_k v_k + beta_(k+1) v_(k+1)
    d: PyTree  # direction d_(k-1), and the one before
    d_before: PyTree
    c: Array  # the last Givens rotation
    s: Array
    delta: Array  # what the rotations so far made of column k of the tridiagonal matrix
    epsilon: Array
    phi: Array  # |b - A x|
    size: Array  # |A|, from below
    steps: Array
    negative: Array
    stationary: Array


def minres(max_steps: int, damping: Damping = 0.0, tol: float = 1e-10) -> Solve:
    """X with the least |b - (A + damping I) x| in the Krylov space of b: A may be indefinite, or singular.

    The residual never grows. Exact after as many steps as A has distinct eigenvalues, one product a step. Stops at
    `|r| <= tol |b|`, at `|A r| <= tol |A| |r|` (b is not in the range of A, and x is a least-squares solution), or after
    `max_steps`. Curvature of -lam is inverted as -1/lam; it is reported as soon as the Krylov space has any.

    Raises:
        ValueError: if `max_steps < 1`, `damping < 0` or `tol < 0`.

    Source: Paige and Saunders 1975; the test for negative curvature, Liu and Roosta 2022, "MINRES: From Negative
    Curvature Detection to Monotonicity Properties".

    Example:
        >>> x, info = minres(max_steps=2)(lambda v: jnp.array([1.0, -4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [round(float(value), 4) for value in x], bool(info.residual < 1e-5), bool(info.negative_curvature)
        ([1.0, -0.25], True, True)
    """
    whole("minres: max_steps", max_steps)
    real("minres: tol", tol, least=0)

    def method(A: Matvec, b: PyTree, _) -> Solved:
        norm = optax.tree.norm(b)
        small = max(tol, float(jnp.finfo(norm.dtype).eps))

        def unfinished(s: _State):
            return (s.phi > tol * norm) & (s.steps < max_steps) & ~s.stationary

        def body(s: _State):
            product = A(s.v)
            alpha = inner(s.v, product)
            product = optax.tree.add_scale(optax.tree.add_scale(product, -alpha, s.v), -s.beta, s.v_before)
            beta = optax.tree.norm(product)
            size = jnp.maximum(s.size, jnp.sqrt(s.beta**2 + alpha**2 + beta**2))
            # Column k of the tridiagonal matrix under the last rotation, and under the one that clears beta.
            delta, gamma = s.c * s.delta + s.s * alpha, s.s * s.delta - s.c * alpha
            next_delta, next_epsilon = -s.c * beta, s.s * beta
            stationary = jnp.hypot(gamma, next_delta) <= small * size  # = |A r| / |r|
            negative = s.negative | (s.c * gamma > small * size)  # r'A r = -|r|^2 c gamma
            length = jnp.where(stationary, 1.0, jnp.hypot(gamma, beta))
            c, rotation = gamma / length, beta / length
            d = optax.tree.add_scale(optax.tree.add_scale(s.v, -delta, s.d), -s.epsilon, s.d_before)
            d = optax.tree.scale(1.0 / length, d)
            x = optax.tree.add_scale(s.x, jnp.where(stationary, 0.0, c * s.phi), d)
            phi = jnp.where(stationary, s.phi, rotation * s.phi)
            v = optax.tree.scale(1.0 / jnp.where(beta > 0, beta, 1.0), product)
            steps = s.steps + 1
            return _State(
                x, v, s.v, beta, d, s.d, c, rotation, next_delta, next_epsilon, phi, size, steps, negative, stationary
            )

        zero, none, no = optax.tree.zeros_like(b), jnp.zeros_like(norm), jnp.array(False)
        v = optax.tree.scale(1.0 / jnp.where(norm > 0, norm, 1.0), b)
        first = _State(zero, v, zero, none, zero, zero, none - 1, none, none, none, norm, none, jnp.array(0), no, no)
        end = lax.while_loop(unfinished, body, first)
        contraction = (end.phi / norm) ** (1.0 / jnp.maximum(end.steps, 1))
        return Solved(end.x, optax.tree.sub(b, A(end.x)), contraction, end.negative)

    return solver(method, damping, "minres: damping")
