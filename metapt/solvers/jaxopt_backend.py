"""The only module that imports jaxopt, which is no longer maintained and says so on import; silenced here alone."""

import warnings
from typing import Any

import jax.numpy as jnp
import optax

from metapt.solvers.solver import Damping, Solved, inner, shift, solver
from metapt.types import Matvec, PyTree, Solve

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from jaxopt import linear_solve
    from jaxopt.implicit_diff import root_vjp

__all__ = ["from_jaxopt", "root_vjp"]

_NAMES = ("bicgstab", "cg", "cholesky", "gmres", "inv", "lu", "normal_cg", "qr")


def from_jaxopt(name: str, ridge: Damping = 0.0, **options: Any) -> Solve:
    """One of jaxopt's linear solvers, `jaxopt.linear_solve.solve_<name>`, with a report.

    Args:
        name: `cg`, `normal_cg`, `gmres`, `bicgstab` (by products), `lu`, `cholesky`, `qr`, `inv` (dense, for one array).
        ridge: added to the diagonal (for `normal_cg`, to that of A'A).
        **options: passed on, for example `maxiter` and `tol`.

    Example:
        >>> x, info = from_jaxopt("gmres")(lambda v: jnp.array([1.0, 4.0]) * v, jnp.array([1.0, 1.0]))
        >>> [round(float(value), 4) for value in x], bool(info.residual < 1e-4)
        ([1.0, 0.25], True)
    """
    name = name.removeprefix("solve_")
    if name not in _NAMES:
        raise ValueError(f"from_jaxopt: name={name!r} is not one of {', '.join(_NAMES)}")
    jaxopt_solve = getattr(linear_solve, f"solve_{name}")

    def method(A: Matvec, b: PyTree, _) -> Solved:
        normal = {"ridge": shift(ridge, lambda v: A(A(v)), b)} if name == "normal_cg" and ridge else {}
        x = jaxopt_solve(A, b, **normal, **options)
        product = A(x)
        return Solved(x, optax.tree.sub(b, product), jnp.nan, inner(x, product) < 0)

    return solver(method, 0.0 if name == "normal_cg" else ridge, "from_jaxopt: ridge")
