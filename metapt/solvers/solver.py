"""What all solvers share, said once: the damping, the start, and the report."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.checks import real
from metapt.types import Matvec, PyTree, Solve, SolveInfo

Damping = float | Callable[[Matvec, PyTree], Array]  # a number, or a rule (matvec, like) -> number


class Solved(NamedTuple):
    """What a method finds out about `A x = b` on its own."""

    x: PyTree
    residual: PyTree  # b - A x
    contraction: Array | float
    negative: Array  # some direction with v'Av < 0 was met


def solver(method: Callable[[Matvec, PyTree, Array | float], Solved], damping: Damping, name: str) -> Solve:
    """`method(A, b, rho)`, for `A = matvec + rho I`, as a `Solve`.

    From a start x0 the method solves `A dx = b - A x0`; a Krylov method so continues where it was left. A start that
    is worse than zero, or not finite, is dropped.

    Raises:
        ValueError: if `damping < 0`; `name` says whose it is.
    """
    if not callable(damping):
        real(name, damping, least=0, why="it is added to every eigenvalue")

    def solve(matvec: Matvec, b: PyTree, start: PyTree = None) -> tuple[PyTree, SolveInfo]:
        rho = shift(damping, matvec, b)
        A = matvec if damping == 0 else lambda v: optax.tree.add_scale(matvec(v), rho, v)
        if start is None:
            solved = method(A, b, rho)
            return solved.x, _report(solved.x, b, solved)
        rest = optax.tree.sub(b, A(start))
        good = optax.tree.norm(rest) < optax.tree.norm(b)
        keep = lambda better, worse: jax.tree.map(lambda one, other: jnp.where(good, one, other), better, worse)
        solved = method(A, keep(rest, b), rho)
        x = optax.tree.add(keep(start, optax.tree.zeros_like(b)), solved.x)
        return x, _report(x, b, solved)

    return solve


def shift(damping: Damping, matvec: Matvec, like: PyTree) -> Array | float:
    """The damping as a number."""
    return damping(matvec, like) if callable(damping) else damping


def inner(a: PyTree, b: PyTree) -> Array:
    """The inner product of two trees."""
    return jnp.asarray(optax.tree.vdot(a, b))


def _report(x: PyTree, b: PyTree, solved: Solved) -> SolveInfo:
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(x)]).all()
    residual = optax.tree.norm(solved.residual) / optax.tree.norm(b)
    number = lambda value: jnp.asarray(value, residual.dtype)
    return SolveInfo(
        residual, number(solved.contraction), number(solved.negative), number(finite), number(1), number(jnp.nan)
    )
