"""Products with second derivatives, by the first way that the model allows, and the Gauss-Newton curvature."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from metapt.objectives import Predict
from metapt.types import Matvec, PyTree

_log = logging.getLogger("metapt")
_Loss = Callable[[PyTree, PyTree], Array]  # (params, context) -> scalar


def hessian_product(loss: _Loss, params: PyTree, context: PyTree) -> Matvec:
    """`v -> (d2L/dtheta2) v`: one linearization, shared by all products.

    Forward over reverse; if the model has no rule for that (a `custom_vjp`, as in fused attention), reverse over reverse;
    if the rule itself can't be differentiated (a callback, a kernel), central differences of the gradient. Each step
    down is a warning in the log, when the model is traced.
    """
    gradient = jax.grad(lambda params: loss(params, context))

    def forward_over_reverse():
        _, product = jax.linearize(gradient, params)
        # Under a trace jax stages the jvp of a custom_vjp and complains when it compiles; a second jvp finds it now.
        jax.eval_shape(lambda v: jax.jvp(product, (v,), (v,)), params)
        return product

    def reverse_over_reverse():
        _, transposed = jax.vjp(gradient, params)
        return lambda v: transposed(v)[0]  # which is the product: the Hessian is symmetric

    differences = lambda: functools.partial(_central_difference, gradient, params)
    return _first("Hessian products", forward_over_reverse, reverse_over_reverse, differences)


def mixed_product(loss: _Loss, params: PyTree, context: PyTree, u: PyTree) -> PyTree:
    """`u' (d2L/dtheta dc)`: the gradient, with respect to the context, of the directional derivative of L along u.

    The directional derivative is forward mode's, else reverse mode's, else a central difference.
    """

    def along(directional):
        derivative = lambda context: directional(lambda params: loss(params, context))
        return lambda: jax.grad(derivative, allow_int=True)(context)

    return _first(
        "mixed derivatives",
        along(lambda f: jax.jvp(f, (params,), (u,))[1]),
        along(lambda f: optax.tree.vdot(jax.grad(f)(params), u)),
        along(lambda f: _central_difference(f, params, u)),
    )


def linearized(predict: Predict) -> Predict:
    """A `predict` that is linear in the parameters around where they are: the same value, the same gradient, no curvature.

    The Hessian of an objective on a linearized model is the Gauss-Newton matrix `J' (d2 loss / d outputs2) J`: positive
    semidefinite if the loss is convex in the outputs, and for cross-entropy on logits the Fisher matrix.

        implicit(stage, cg(20), curvature=cross_entropy(linearized(predict)))

    The model needs forward mode: a `custom_vjp` without a jvp rule won't do.

    Source: Schraudolph 2002; Martens 2020, "New Insights and Perspectives on the Natural Gradient Method", sections 8, 9.

    Example:
        >>> from metapt.objectives import stateless
        >>> square = stateless(lambda params, context, x: params**2 * x)
        >>> curvature = lambda predict: jax.grad(jax.grad(lambda p: (predict(p, None, None, 1.0, None)[0] - 3.0) ** 2))(2.0)
        >>> float(curvature(square)), float(curvature(linearized(square)))  # 2 (f f'' + f'^2), and 2 f'^2
        (36.0, 32.0)
    """

    def predicted(params, context, extra, x, key):
        at = lax.stop_gradient(params)
        run = lambda params: predict(params, context, extra, x, key)
        output, change, extra = jax.jvp(run, (at,), (optax.tree.sub(params, at),), has_aux=True)
        return optax.tree.add(output, change), extra

    return predicted


def _central_difference(f: Callable[[PyTree], Any], at: PyTree, v: PyTree) -> Any:
    """`(f(at + h v) - f(at - h v)) / 2h`, with `h |v| = cbrt(machine epsilon (1 + |at|))`.

    That is where rounding, of numbers of the size of `at`, and truncation are alike; in float32 it is near the 0.01 of DARTS.

    Source: of the gradient, Pearlmutter 1994, section 3; of the mixed derivative, Liu et al. 2019 (DARTS), equation 8.
    """
    size = optax.tree.norm(v)
    h = jnp.cbrt(jnp.finfo(size.dtype).eps * (1 + optax.tree.norm(at))) / jnp.where(size > 0, size, 1)
    moved = lambda h: f(optax.tree.add_scale(at, h, v))
    return jax.tree.map(lambda above, below: ((above - below) / (2 * h)).astype(above.dtype), moved(h), moved(-h))


def _first(what: str, forward: Callable, reverse: Callable, differences: Callable) -> Any:
    """The first of three that jax can differentiate; it says no by these three errors, at trace time.

    Anything else that is wrong with an objective fails in the last one too, and is raised there.
    """
    refused = (TypeError, ValueError, NotImplementedError)
    try:
        return forward()
    except refused as error:
        instead = "reverse over reverse (several times as dear with convolutions)"
        _warn(what, "forward mode, which a custom_vjp lacks,", error, instead)
    try:
        return reverse()
    except refused as error:
        instead = "central differences (two gradients each, good to about 1e-4 in float32, 1e-10 in float64)"
        _warn(what, "reverse over reverse", error, instead)
    return differences()


def _warn(what: str, tried: str, error: Exception, instead: str) -> None:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    _log.warning("%s: %s does not work on this model (%s); taking %s", what, tried, reason, instead)
