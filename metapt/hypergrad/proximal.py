"""Training that is held near its start, and how its end moves with that start."""

import optax
from jax import Array

from metapt.checks import real
from metapt.hypergrad.implicit import implicit
from metapt.solvers.cg import cg
from metapt.stages import assert_stage, loop as loops
from metapt.types import Fit, Loop, Objective, PyTree, Solve, SolveInfo, Stage, StageInfo, StageState


def proximal(
    stage: Stage,
    strength: float,
    solve: Solve = cg(max_steps=5),
    loop: Loop = loops.auto,
    curvature: Objective | None = None,
) -> Fit:
    """Trains on `L(theta, c) + strength / 2 |theta - start|^2`; the derivative in start and context is that of the minimum:

        dtheta*/dstart = (I + H / strength)^-1,   dtheta*/dc = -(H + strength I)^-1 M,   H, M those of L

    It is `implicit` of that objective, with the start as part of the context: no step is remembered, and unlike `first_order`
    the start's influence fades along directions of high curvature. `info.loss` includes the pull.

    Args:
        strength: of the pull to the start, above 0; well above the size of negative curvatures for `cg`.
        solve: of systems with `H + strength I`.
        curvature: the objective, without the pull, whose Hessian stands for `H`, as in `implicit`: the Gauss-Newton matrix
            has no negative curvature.

    Raises:
        ValueError: when built, if `strength <= 0`.

    Source: Rajeswaran et al. 2019, "Meta-Learning with Implicit Gradients", lemma 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> stage = Stage(lambda params, context, extra, batch, key: (1.5 * params**2, extra), optax.sgd(0.1))
        >>> fit = proximal(stage, strength=1.0)
        >>> state = StageState(jnp.array(2.0), stage.optimizer.init(2.0), None)
        >>> end = lambda start: fit(state._replace(params=start), None, jnp.zeros(99), jax.random.key(0))[0].params
        >>> float(jax.grad(end)(2.0))
        0.25
    """
    assert_stage(stage)
    real("proximal: strength", strength, above=0, why="at 0 the start has no influence on the minimum")

    def pulled(objective: Objective) -> Objective:
        def with_pull(params, context, extra, batch, key):
            start, context = context
            loss, extra = objective(params, context, extra, batch, key)
            return loss + 0.5 * strength * optax.tree.norm(optax.tree.sub(params, start), squared=True), extra

        return with_pull

    near = Stage(pulled(stage.objective), stage.optimizer)
    held = implicit(near, solve, loop, None if curvature is None else pulled(curvature))

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        return held(state, (state.params, context), batches, key, report)

    return fit
