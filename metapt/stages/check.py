"""Refuses, when a rule is built, an optimizer whose update has no finite derivative."""

import jax
import jax.numpy as jnp
import optax


def assert_differentiable(optimizer: optax.GradientTransformation, rule: str) -> None:
    """Differentiates one update at a zero gradient (a dead unit) and raises if the result is not finite.

    Adam divides by sqrt(v): at v = 0 its derivative is infinite, and one dead unit turns the whole hypergradient
    into NaN. `eps_root > 0` puts a floor under the root. An optimizer that only accepts its own parameter tree
    (a mask with named leaves) can't be probed here and passes.

    Raises:
        ValueError: with the cure.

    Example:
        >>> assert_differentiable(optax.adam(1e-3, eps_root=1e-8), "unroll")
        >>> assert_differentiable(optax.adam(1e-3), "unroll")
        Traceback (most recent call last):
        ...
        ValueError: unroll: the optimizer's update has no finite derivative at a zero gradient, ...
    """
    with jax.ensure_compile_time_eval():  # also where a rule is built inside a function that is being traced
        params = {"probe": jnp.ones(2)}
        gradient = {"probe": jnp.array([0.0, 1.0])}
        try:
            state = optimizer.init(params)
        except (KeyError, TypeError, ValueError):
            return
        _, slope = jax.jvp(lambda g: optimizer.update(g, state, params)[0], (gradient,), (params,))
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))
    if not finite:
        raise ValueError(
            f"{rule}: the optimizer's update has no finite derivative at a zero gradient, so one dead unit makes the "
            "hypergradient NaN; give it eps_root > 0, for example optax.adam(learning_rate, eps_root=1e-8) "
            "(sgd, momentum and weight decay are safe as they are)"
        )
