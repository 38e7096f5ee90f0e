"""One step's influence on the end of training, from two gradients: no second derivative of the model is taken."""

import jax
import jax.numpy as jnp
import optax

from metapt.checks import real
from metapt.hypergrad.adjoint import End, last_loss, with_adjoint
from metapt.stages import assert_differentiable, assert_responsive, assert_stage, loop as loops, move
from metapt.types import Fit, Loop, PyTree, SolveInfo, Stage


def finite_difference(stage: Stage, radius: float = 0.01, loop: Loop = loops.auto) -> Fit:
    """What one more step of the stage's optimizer would make of a change in the context, by a central difference:

        v' dtheta/dc = (dL/dc(theta + eps u, c) - dL/dc(theta - eps u, c)) / (2 eps),   u = (d update / d gradient)' v

    `d update / d gradient` is that of the optimizer at its last state, `-eta` for `optax.sgd(eta)`: then it equals `implicit`
    with `neumann(0, step=eta)` but for O(eps^2). Settings of the optimizer that are in the context count too, exactly.
    For models whose second derivative is slow, takes too much memory or does not exist (kernels with a backward pass of
    their own). In float32 a small radius drowns in rounding; across kinks of ReLU a large one is wrong.

    The start counts for nothing, its derivative is zero; `extra` is a constant.

    Args:
        radius: length of the displacement `eps u`, in the units of the parameters.

    Raises:
        ValueError: when built, if `radius <= 0`, or as `fixed_point`.

    Source: Liu, Simonyan, Yang 2019, "DARTS: Differentiable Architecture Search", equation 8; the optimizer's factor: Choe
    et al. 2023, "Making Scalable Meta Learning Practical".

    Example:
        >>> from metapt.types import StageState
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.5))
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: finite_difference(stage)(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> round(float(jax.grad(end)(2.0)), 4)
        0.5
    """
    real("finite_difference: radius", radius, above=0, why="in the units of the parameters")
    assert_stage(stage)
    assert_differentiable(stage.optimizer, "finite_difference")
    assert_responsive(stage.optimizer, "finite_difference")

    def adjoint(end: End, v: PyTree, _: PyTree) -> tuple[PyTree, SolveInfo]:
        state, params, loss = end.state, end.state.params, last_loss(stage.objective, end)
        gradient = jax.grad(loss)(params, end.context)
        _, pull = jax.vjp(lambda gradient: move(stage, end.context, state, gradient)[0], gradient)
        (u,) = pull(v)
        length = optax.tree.norm(u)
        eps = radius / jnp.where(length > 0, length, 1.0)

        def along_v(context):
            above, below = (loss(optax.tree.add_scale(params, shift, u), context) for shift in (eps, -eps))
            return (above - below) / (2 * eps) + optax.tree.vdot(v, move(stage, context, state, gradient)[0])

        return jax.grad(along_v, allow_int=True)(end.context), SolveInfo.blank()

    return with_adjoint(stage, adjoint, loop)
