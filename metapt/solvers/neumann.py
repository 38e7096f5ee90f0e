"""The truncated Neumann series."""

from typing import Literal

import jax.numpy as jnp
import optax
from jax import lax

from metapt.checks import real, whole
from metapt.solvers.solver import Solved, inner, solver
from metapt.solvers.spectrum import largest_eigenvalue
from metapt.types import Matvec, PyTree, Solve


def neumann(terms: int, step: float | Literal["auto"] = "auto") -> Solve:
    """X = step * sum over j = 0 .. terms of (I - step A)^j b, which tends to A^-1 b if 0 < step < 2 / largest eigenvalue.

    A direction of curvature `lam` is inverted as `(1 - (1 - step lam)^(terms + 1)) / lam`: few terms are damping.
    On a quadratic this is the derivative of `terms + 1` unrolled steps of gradient descent.

    Args:
        terms: products with A beyond the leading term, at least 0.
        step: `"auto"` is 1 / (largest eigenvalue of the same A, by power iteration), or a number.

    Source: Lorraine et al. 2020, equation 5 and algorithm 3.

    Example:
        >>> x, info = neumann(terms=60, step=0.3)(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [round(float(value), 4) for value in x], bool(info.residual < 1e-4), bool(info.negative_curvature)
        ([1.0, 0.25], True, False)
    """
    whole("neumann: terms", terms, least=0)
    if step != "auto":
        real("neumann: step", step, above=0, why="or 'auto'")

    def method(A: Matvec, b: PyTree, _) -> Solved:
        eta = 1.0 / largest_eigenvalue(A, b) if step == "auto" else step

        def next_term(term):  # (I - eta A) term, and whether the curvature along it is negative
            product = A(term)
            return optax.tree.add_scale(term, -eta, product), inner(term, product) < 0

        def body(carry, _):
            term, total, negative = carry
            term, below = next_term(term)
            return (term, optax.tree.add(total, term), negative | below), None

        (term, total, negative), _ = lax.scan(body, (b, b, jnp.array(False)), length=terms)
        residual, below = next_term(term)  # b - A x is the first term that was left out
        # The leading term alone iterates nothing, and its step may be any number.
        contraction = optax.tree.norm(residual) / optax.tree.norm(term) if terms else jnp.nan
        return Solved(optax.tree.scale(eta, total), residual, contraction, negative | below)

    return solver(method, 0.0, "neumann: damping")
