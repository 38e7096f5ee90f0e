"""A low-rank inverse: all products at once, none of them depends on another."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from metapt.checks import real, whole
from metapt.solvers.solver import Damping, Solved, solver
from metapt.types import Matvec, PyTree, Solve


def nystrom(rank: int, damping: Damping) -> Solve:
    """X = (H_k + damping I)^-1 b, with the Nystrom approximation H_k of rank k:

        H_k = C (S'C)^+ C' = U diag(lam) U',   C = H S   (S: n x k)
        x = U (U'b / (lam + damping)) + (b - U U'b) / damping

    `rank` products and `rank` copies of the unknown. At full rank it equals `dense`. Directions outside the sketch are
    divided by `damping`, so it should be near the curvature that is left out; the residual says what was missed.

    S is a Gaussian sketch with orthonormal columns, the same in every call, not a choice of H's columns: a product
    costs the same either way, and on a tree of layers columns would go to the layers with the most parameters and be
    zero at dead units, while a sketch sees all layers alike and its error does not depend on the coordinates.

    Raises:
        ValueError: if `rank < 1` or `damping <= 0`.

    Source: Hataya and Yamada 2023, "Nystrom Method for Accurate and Scalable Implicit Differentiation" (with
    columns of H); the sketch, Frangella, Tropp and Udell 2023, "Randomized Nystrom Preconditioning".

    Example:
        >>> x, info = nystrom(rank=2, damping=1.0)(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [round(float(value), 4) for value in x], bool(info.residual < 1e-5)
        ([0.5, 0.2], True)
    """
    whole("nystrom: rank", rank)
    if not callable(damping):
        real("nystrom: damping", damping, above=0, why="directions outside the sketch are divided by it")

    def method(A: Matvec, b: PyTree, rho) -> Solved:
        flat, unravel = ravel_pytree(b)
        sketch = jax.random.normal(jax.random.key(0), (flat.size, min(rank, flat.size)), flat.dtype)
        S, _ = jnp.linalg.qr(sketch)
        # One product at a time, as in the other solvers: memory for activations does not grow with the rank.
        C = lax.map(lambda v: ravel_pytree(A(unravel(v)))[0] - rho * v, S.T).T  # A is H + rho I
        core = S.T @ C
        Q, R = jnp.linalg.qr(C)
        inverse = jnp.linalg.pinv((core + core.T) / 2, hermitian=True)
        values, vectors = jnp.linalg.eigh(R @ inverse @ R.T)
        U = Q @ vectors  # H_k = U diag(values) U'
        rest = flat - U @ (U.T @ flat)
        rest = rest - U @ (U.T @ rest)  # twice: what rounding leaves of the first is divided by rho
        x = unravel(U @ (U.T @ flat / (values + rho)) + rest / rho)
        return Solved(x, optax.tree.sub(b, A(x)), jnp.nan, values[0] + rho < 0)

    return solver(method, damping, "nystrom: damping")
