"""An optimizer whose settings are meta-parameters."""

from collections.abc import Callable

import optax

from metapt.types import PyTree


def from_context(
    make: Callable[[PyTree], optax.GradientTransformation], like: PyTree
) -> optax.GradientTransformationExtraArgs:
    """The optimizer `make(context)`, made anew at every step from the context that the stage sees.

    So a learning rate, a momentum, a decay or a whole schedule is learned like any other meta-parameter, by the rules that
    differentiate the optimizer: `unroll`, `truncate`, `forward`, `fixed_point`. `implicit` gives it an exact zero.

    Args:
        make: from a context to an optax optimizer; the structure of its state must not depend on the values.
        like: a context with usual values: the state is initialised with it, and `unroll` checks the optimizer at it.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = from_context(lambda c: optax.sgd(c["rate"]), like={"rate": 0.1})
        >>> updates, _ = optimizer.update(jnp.array(2.0), optimizer.init(jnp.array(1.0)), context={"rate": 0.5})
        >>> float(updates)
        -1.0
    """

    def update(updates, state, params=None, *, context: PyTree = like, **extra_args):
        return optax.with_extra_args_support(make(context)).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(lambda params: make(like).init(params), update)
