"""The derivative of where the optimizer, as it is, comes to rest."""

import jax
import jax.numpy as jnp
import optax

from metapt.hypergrad.adjoint import End, last_loss, with_adjoint
from metapt.hypergrad.curvature import hessian_product, mixed_product
from metapt.solvers.neumann import neumann
from metapt.stages import assert_differentiable, assert_responsive, assert_stage, depends, loop as loops, move
from metapt.types import Fit, Loop, PyTree, Solve, SolveInfo, Stage, StageState


def fixed_point(stage: Stage, solve: Solve = neumann(terms=5, step=1.0), loop: Loop = loops.auto) -> Fit:
    """Where training rests, a step of the optimizer changes nothing, and goes on changing nothing as the context c moves:

        z* = U(z*, c)   =>   dz*/dc = (I - dU/dz)^-1 dU/dc,   z = (theta, the optimizer's moments)

    U is one step of the stage's own optimizer, as it is at the end, at the last batch and its key. So momentum,
    preconditioning, clipping, schedules and decoupled weight decay count, settings from the context
    (`optimizers.from_context`) too; step counts are constants. A Neumann series of J terms is the derivative of J + 1
    such steps; with `optax.sgd(eta)` it is `implicit` with `neumann(terms, step=eta)`.

    The start has no influence on where training rests: its derivative is zero. `extra` is a constant.

    Args:
        solve: for `(I - dU/dz)' x = b`, a matrix that is not symmetric in general: `neumann(terms, step=1.0)`,
            `from_jaxopt("gmres" | "bicgstab")`, or `dense` (but not for moments that never forget, as Adagrad's); not
            `cg`, and no `step="auto"`.

    Raises:
        ValueError: when built, if the optimizer has no finite derivative (as `unroll`), or a zero one (it sees signs only).

    Source: Bai, Kolter, Koltun 2019, "Deep Equilibrium Models", theorem 1; Grazzi et al. 2020, "On the Iteration Complexity
    of Hypergradient Computation".

    Example:
        >>> optimizer = optax.chain(optax.add_decayed_weights(1.0), optax.sgd(0.5))  # rests at c / 2
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optimizer)
        >>> state = StageState(jnp.array(5.0), optimizer.init(5.0), None)
        >>> end = lambda c: fixed_point(stage)(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> float(jax.grad(end)(2.0))
        0.5
    """
    assert_stage(stage)
    assert_differentiable(stage.optimizer, "fixed_point")
    assert_responsive(stage.optimizer, "fixed_point")

    def adjoint(end: End, v: PyTree, _: PyTree) -> tuple[PyTree, SolveInfo]:
        loss = last_loss(stage.objective, end)
        hessian = hessian_product(loss, end.state.params, end.context)
        gradient = jax.grad(loss)(end.state.params, end.context)
        leaves, structure = jax.tree.flatten(end.state.opt_state)
        after = lambda at: move(stage, end.context, end.state._replace(params=at[1]), at[0])[1]
        seen = jax.tree.leaves(
            depends(after, (gradient, end.state.params))
        )  # a setting that stays as it is is no moment
        moments = [i for i, leaf in enumerate(leaves) if seen[i] and jnp.issubdtype(leaf.dtype, jnp.inexact)]

        def moved(gradient, z, context):
            params, values = z
            whole = dict(enumerate(leaves)) | dict(zip(moments, values, strict=True))
            state = StageState(params, jax.tree.unflatten(structure, whole.values()), end.state.extra)
            params, opt_state = move(stage, context, state, gradient)
            return params, [jax.tree.leaves(opt_state)[i] for i in moments]

        z = end.state.params, [leaves[i] for i in moments]
        _, pull = jax.vjp(lambda gradient, z: moved(gradient, z, end.context), gradient, z)

        def matvec(x):  # (I - dU/dz)' x; theta moves U through the gradient, and directly as the moments do
            u, direct = pull(x)
            params, rest = optax.tree.sub(x, direct)
            return optax.tree.sub(params, hessian(u)), rest

        x, report = solve(matvec, (v, optax.tree.zeros_like(z[1])))
        u, _ = pull(x)

        by_gradient = mixed_product(loss, z[0], end.context, u)  # c moves U likewise
        by_settings = jax.grad(lambda c: optax.tree.vdot(x, moved(gradient, z, c)), allow_int=True)(end.context)
        return jax.tree.map(_add, by_gradient, by_settings), report

    return with_adjoint(stage, adjoint, loop)


def _add(a, b):
    return a if a.dtype == jax.dtypes.float0 else a + b  # an integer has no derivative
