"""Refuses, when a rule is built, an optimizer whose derivative is of no use; and what depends on what."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.interpreters.partial_eval import dce_jaxpr

from metapt.types import PyTree, Stage


def assert_stage(stage: Stage) -> None:
    """Raises if this is no objective with an optimizer.

    Raises:
        ValueError: with what it is instead.

    Example:
        >>> assert_stage(optax.sgd(0.1))
        Traceback (most recent call last):
        ...
        ValueError: a rule takes Stage(objective, optimizer), found GradientTransformationExtraArgs
    """
    if not isinstance(stage, Stage):
        raise ValueError(f"a rule takes Stage(objective, optimizer), found {type(stage).__name__}")
    if not callable(stage.objective):
        raise ValueError(
            f"Stage: objective={stage.objective!r} must be a function (params, context, extra, batch, key)"
        )
    if not isinstance(stage.optimizer, optax.GradientTransformation):
        raise ValueError(f"Stage: optimizer={stage.optimizer!r} must be one of optax, for example optax.adam(1e-3)")


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
        slope = _slope(optimizer, {"probe": jnp.array([0.0, 1.0])})({"probe": jnp.ones(2)})
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))
    if not finite:
        raise ValueError(
            f"{rule}: the optimizer's update has no finite derivative at a zero gradient, so one dead unit makes the "
            "hypergradient NaN; give it eps_root > 0, for example optax.adam(learning_rate, eps_root=1e-8) "
            "(sgd, momentum and weight decay are safe as they are)"
        )


def assert_responsive(optimizer: optax.GradientTransformation, rule: str) -> None:
    """Raises if the update's derivative in the gradient is zero everywhere, as for optimizers that only look at signs.

    Raises:
        ValueError: with the cure.

    Example:
        >>> assert_responsive(optax.sgd(0.1), "fixed_point")
        >>> assert_responsive(optax.lion(0.1), "fixed_point")
        Traceback (most recent call last):
        ...
        ValueError: fixed_point: the optimizer's update has a zero derivative in the gradient ...
    """
    probe = {"probe": jnp.ones(2)}
    if not any(jax.tree.leaves(depends(_slope(optimizer, probe), probe))):
        raise ValueError(
            f"{rule}: the optimizer's update has a zero derivative in the gradient (it sees signs only), so every "
            "hypergradient would be zero; use implicit, which does not look at the optimizer"
        )


def depends(f: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
    """Which leaves of `f(x)` are computed from `x`: a tree of booleans. Nothing is evaluated, so all numbers may be tracers.

    A derivative that is not computed from its cotangent (or tangent) is exactly zero.

    Example:
        >>> depends(lambda x: {"a": 2 * x, "b": jnp.zeros_like(x)}, 1.0)
        {'a': True, 'b': False}
    """
    jaxpr, shape = jax.make_jaxpr(f, return_shape=True)(x)
    outputs = range(len(jaxpr.jaxpr.outvars))
    used = (dce_jaxpr(jaxpr.jaxpr, [i == output for i in outputs])[1] for output in outputs)
    return jax.tree.unflatten(jax.tree.structure(shape), [any(inputs) for inputs in used])


def _slope(optimizer: optax.GradientTransformation, gradient: PyTree) -> Callable[[PyTree], PyTree]:
    """The derivative of one update; the identity if the optimizer accepts no tree but its own parameters."""
    params = jax.tree.map(jnp.ones_like, gradient)
    try:
        state = optimizer.init(params)
    except (KeyError, TypeError, ValueError):
        return lambda tangent: tangent
    return lambda tangent: jax.jvp(lambda g: optimizer.update(g, state, params)[0], (gradient,), (tangent,))[1]
