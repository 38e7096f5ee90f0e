"""A penalty with a kink, met exactly: a proximal step after the optimizer's own."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.checks import real


def group_lasso(step: float) -> optax.GradientTransformationExtraArgs:
    """The proximal step of `sum_g alpha sqrt(p_g) |w_g - w0_g|`, to be chained behind an optimizer.

        w_g <- w0_g + max(0, 1 - step alpha sqrt(p_g) / |w_g - w0_g|) (w_g - w0_g)

    A group is what makes one output: the entries of a leaf with one index of its last axis, p_g of them. A group that the data
    do not pull hard enough stays where it began, exactly. w0 and alpha are `params` and `groups` of the stage's context, an
    `objectives.StartPoint`, so the rules that differentiate the optimizer (`unroll`, `fixed_point`) learn them.

    Args:
        step: of the optimizer, per gradient: `optax.sgd(rate)`: rate; with momentum m: `rate / (1 - m)`. Another one makes the
            penalty as many times stronger as it is larger.

    Source: Li, Grandvalet, Davoine 2018, section 3 (GL-SP), by a proximal step in place of a smoothed root.

    Example:
        >>> from metapt.objectives import StartPoint
        >>> optimizer, params = group_lasso(0.1), jnp.array([[3.0, 0.0], [4.0, 0.1]])
        >>> context = StartPoint(jnp.zeros((2, 2)), squares=0.0, groups=10 / 2**0.5)
        >>> still = jnp.zeros((2, 2))
        >>> updates, _ = optimizer.update(still, optimizer.init(params), params, context=context)
        >>> (10 * optax.apply_updates(params, updates)).round().tolist()  # |(3, 4)| = 5 becomes 4, |(0, 0.1)| becomes 0
        [[24.0, 0.0], [32.0, 0.0]]
    """
    real("group_lasso: step", step, above=0, why="the optimizer's own")

    def update(updates, state, params=None, *, context=None, **extra_args):
        if context is None:  # a rule that is built looks at the optimizer before there is any training
            return updates, state
        strength = jax.tree.broadcast(context.groups, params)
        held = lambda update, w, start, alpha: start - w + _shrink(w + update - start, step * alpha)
        return jax.tree.map(held, updates, params, context.params, strength), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _shrink(moved: Array, threshold: Array) -> Array:
    squared = jnp.sum(moved**2, axis=tuple(range(moved.ndim - 1)), keepdims=True)
    limit = threshold * (moved.size / max(1, squared.size)) ** 0.5
    size = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))  # the root's slope at 0 is infinite
    return jnp.where(squared >= limit**2, 1 - limit / size, 0.0) * moved
