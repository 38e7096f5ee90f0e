"""Forward mode: the derivative travels with training, so nothing is kept of the steps."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array

from metapt.hypergrad.differences import stand_in
from metapt.types import PyTree


def forward(f: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A stand-in for `jax.grad` that carries `d state / d phi_i` through every step, for each of the d coordinates of phi.

        Z_i <- (dU/dstate) Z_i + dU/dphi_i     for a training step  state <- U(state, phi)

    Exact, as `jax.grad` through `unroll`, at a memory of d + 1 states whatever the number of steps, and a time of about
    d + 1 forward passes: for learning rates, temperatures, penalties. Nothing is stored, so `remat` plays no part.
    Rules that say their derivative backwards (`implicit`, `fixed_point`, `finite_difference`) can't be asked forwards:
    JAX raises a `TypeError`.

    Only the first of `argnums` is differentiated; the others (the solver's report: nothing is solved) get zeros.

    Source: Franceschi et al. 2017, "Forward and Reverse Gradient-Based Hyperparameter Optimization", section 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda phi, report: (jnp.sum(phi**3), "aux")
        >>> (gradient, _), aux = forward(f, argnums=(0, 1), has_aux=True)(jnp.array([3.0, 1.0]), 0.0)
        >>> gradient.tolist(), aux
        ([27.0, 3.0], 'aux')
    """
    return stand_in(_by_jvp)(f, argnums, has_aux)


def _by_jvp(value: Callable[[PyTree], Array], phi: PyTree, *rest: Any) -> PyTree:
    return jax.jacfwd(value)(phi)
