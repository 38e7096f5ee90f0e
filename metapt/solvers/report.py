"""What every solve says of itself, computed one way."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.types import Matvec, PyTree, SolveInfo


def solve_info(x: PyTree, residual: PyTree, b: PyTree, contraction: Array, negative_curvature: Array) -> SolveInfo:
    """The report on `x`, from `residual = b - A x`."""
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(x)]).all()
    relative = optax.tree.norm(residual) / optax.tree.norm(b)
    number = lambda x: jnp.asarray(x, relative.dtype)
    return SolveInfo(relative, number(contraction), number(negative_curvature), number(finite), number(1))


def inner(a: PyTree, b: PyTree) -> Array:
    """The inner product of two trees."""
    return jnp.asarray(optax.tree.vdot(a, b))


def damped(matvec: Matvec, damping: float, name: str) -> Matvec:
    """`v -> A v + damping v`."""
    if damping < 0:
        raise ValueError(f"{name}: damping={damping} must be at least 0 (it is added to every eigenvalue)")
    return lambda v: optax.tree.add_scale(matvec(v), damping, v)
