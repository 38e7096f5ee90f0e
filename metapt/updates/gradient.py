"""Meta-parameters move by their hypergradient, through any optax optimizer; a non-finite hypergradient moves nothing."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.types import PyTree, Update


def by_gradient(optimizer: optax.GradientTransformation) -> Update:
    """`phi <- optimizer(phi, hypergradient)`; with any NaN or infinity in it, phi and the optimizer's state stay as they are.

    Example:
        >>> update = by_gradient(optax.sgd(0.5))
        >>> phi, _, skipped = update.apply(jnp.array([2.0]), update.init(jnp.array([1.0])), jnp.array([1.0]))
        >>> float(phi[0]), bool(skipped)
        (0.0, False)
        >>> phi, _, skipped = update.apply(jnp.array([jnp.nan]), update.init(phi), phi)
        >>> float(phi[0]), bool(skipped)
        (0.0, True)
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"by_gradient: optimizer={optimizer!r} must be one of optax, for example optax.adam(0.1)")

    def apply(hypergradient: PyTree, state: PyTree, phi: PyTree) -> tuple[PyTree, PyTree, Array]:
        updates, new_state = optimizer.update(hypergradient, state, phi)
        new = optax.apply_updates(phi, updates), new_state
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(hypergradient)]).all()
        phi, state = jax.tree.map(lambda moved, kept: jnp.where(finite, moved, kept), new, (phi, state))
        return phi, state, ~finite

    return Update(optimizer.init, apply)
