"""The derivative of a whole outer step without reverse mode: for a handful of meta-parameters. Stand-ins for `jax.grad`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from metapt.checks import real
from metapt.types import PyTree

Differentiate = Callable[..., Callable[..., Any]]


def stand_in(estimate: Callable[..., PyTree]) -> Differentiate:
    """`jax.grad` with another inside: `estimate(value, phi, *rest)` gives the gradient of the scalar `value(phi)`.

    Only the first of `argnums`, argument 0, is differentiated; the others (the solver's report: nothing is solved) get zeros.
    """

    def differentiate(f: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False):
        first, *others = (argnums,) if isinstance(argnums, int) else argnums
        if first != 0:
            raise ValueError(f"argnums={argnums}: the meta-parameters must be argument 0, the first of argnums")

        def gradient(phi: PyTree, *rest: Any):
            value = lambda phi: f(phi, *rest)[0] if has_aux else f(phi, *rest)
            found = estimate(value, phi, *rest)
            blank = (jax.tree.map(jnp.zeros_like, rest[n - 1]) for n in others)
            gradients = found if isinstance(argnums, int) else (found, *blank)
            return (gradients, f(phi, *rest)[1]) if has_aux else gradients

        return gradient

    return differentiate


def central_differences(step: float) -> Differentiate:
    """A stand-in for `jax.grad`: `(f(phi + h e_i) - f(phi - h e_i)) / 2h` for every coordinate, `h = step`.

    All evaluations share `f`'s other arguments, so they share batches and keys (common random numbers). They cost
    `2 d + 1` evaluations for `d` coordinates. In `meta_pretraining` each looks one outer step ahead from the same state,
    so the influence of phi on earlier steps is not seen.

    Only the first of `argnums` is differentiated; the others (the solver's report: nothing is solved) get zeros.

    Raises:
        ValueError: if `step <= 0`.

    Example:
        >>> f = lambda phi, report: (jnp.sum(phi**2), "aux")
        >>> (gradient, _), aux = central_differences(0.1)(f, argnums=(0, 1), has_aux=True)(jnp.array([3.0, 1.0]), 0.0)
        >>> gradient.round(4).tolist(), aux
        ([6.0, 2.0], 'aux')
    """
    real("central_differences: step", step, above=0, why="in the units of the meta-parameters")

    def estimate(value: Callable[[PyTree], Array], phi: PyTree, *rest: Any) -> PyTree:
        flat, unravel = ravel_pytree(phi)
        shifts = step * jnp.concatenate([jnp.eye(flat.size), -jnp.eye(flat.size)]).astype(flat.dtype)
        above, below = jnp.split(jax.vmap(lambda shift: value(unravel(flat + shift)))(shifts), 2)
        return unravel((above - below) / (2 * step))

    return stand_in(estimate)
