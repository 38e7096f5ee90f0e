"""The derivative of a trained solution by the implicit function theorem: no step of training is remembered."""

import jax
from jax import Array, lax

from metapt.hypergrad.curvature import hessian_product, mixed_product
from metapt.solvers import jaxopt_backend
from metapt.solvers.neumann import neumann
from metapt.stages import loop as loops, step_keys, trainer
from metapt.types import Fit, Loop, Objective, PyTree, Solve, SolveInfo, Stage, StageInfo, StageState


def implicit(
    stage: Stage,
    solve: Solve = neumann(terms=5),
    loop: Loop = loops.auto,
    curvature: Objective | None = None,
    batches: int = 1,
) -> Fit:
    """Where training has come to rest, the gradient is zero, and stays zero as the context c moves:

        dL/dtheta(theta*, c) = 0   =>   dtheta*/dc = - H^-1 M,   H = d2L/dtheta2,   M = d2L/dtheta dc

    The backward pass computes `- (H^-1 v)' M` with `solve` for `H^-1 v`. `H` and `M` are means over the last
    `batches` batches with their keys, so both see the same examples, augmentations and dropout masks. The optimizer
    plays no part.

    The start of the run has no influence on where it comes to rest, so its derivative is zero; so are those of the
    optimizer's settings. `extra` is a constant. Away from rest the result is an approximation: read the report.

    Args:
        stage: what is trained, with any optimizer.
        solve: the inverse-Hessian product, from `metapt.solvers`.
        loop: a function with the interface of `jax.lax.scan`; by default chosen from the model and the backend.
        curvature: the objective whose Hessian stands for `H`, by default the stage's own. The same objective on a
            linearized model (`hypergrad.linearized`) gives the Gauss-Newton matrix.
        batches: how many of the last batches `H` and `M` are averaged over; a product costs as many times more.

    Returns:
        A fit. The gradient with respect to its argument `report` is the `SolveInfo` of the backward pass. If that
        report is `SolveInfo.blank(start)`, the solve starts there, and its solution comes back in the same place.

    Raises:
        ValueError: if `batches < 1`, when built; if a run has fewer steps than `batches`, when it is traced.

    Source: Raghu et al. 2021, section 3; Lorraine et al. 2020, equation 3; the theorem itself from jaxopt's `root_vjp`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.5))
        >>> fit = implicit(stage)
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: fit(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> float(jax.grad(end)(2.0))
        1.0
    """
    if batches < 1:
        raise ValueError(
            f"implicit: batches={batches} must be at least 1 (the last batches that H and M are averaged over)"
        )
    train, count = trainer(stage, loop), batches

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        if len(keys) < count:
            raise ValueError(
                f"implicit: batches={count} but the run has {len(keys)} steps; lower batches, or give it more steps"
            )
        end, info = lax.stop_gradient(train(*lax.stop_gradient((state, context)), batches, keys))
        last = jax.tree.map(lambda x: x[-count:], (batches, keys))
        report = SolveInfo.blank() if report is None else report
        return end._replace(params=solution(end.params, context, end.extra, last, report)), info

    @jax.custom_vjp
    def solution(params, context, extra, last, report):
        return params

    def forward(params, context, extra, last, report):
        return params, (params, context, extra, last, report)

    def backward(residuals, v):
        params, context, extra, last, report = residuals
        loss = _mean(stage.objective, extra, last)
        hessian = hessian_product(loss if curvature is None else _mean(curvature, extra, last), params, context)
        start = () if report.solution is None else (report.solution,)
        reports = []

        def reported_solve(_, b):
            x, info = solve(hessian, b, *start)
            reports.append(info._replace(solution=x if start else None))
            return x

        (context_bar,) = jaxopt_backend.root_vjp(_stationarity(loss), params, (context,), v, reported_solve)
        report_bar = jax.tree.map(lambda new, slot: new.astype(slot.dtype), reports[0], report)
        return None, context_bar, None, None, report_bar

    solution.defvjp(forward, backward)
    return fit


def _mean(objective: Objective, extra: PyTree, last: tuple[PyTree, Array]):
    """`(params, context) -> loss`, the mean of the objective over stacked `(batches, keys)`."""

    def loss(params, context):
        one = lambda batch, key: objective(params, context, extra, batch, key)[0]
        if len(last[1]) == 1:  # as it stands: not every model can be mapped
            return one(*jax.tree.map(lambda x: x[0], last))
        return jax.vmap(one)(*last).mean()

    return loss


def _stationarity(loss):
    """dL/dtheta as a function of the context, whose transpose is `mixed_product`.

    Left to itself, autodiff goes reverse over reverse here, which on a convolution network costs several times as much.
    """

    @jax.custom_vjp
    def stationarity(params, context):
        return jax.grad(loss)(params, context)

    def forward(params, context):
        return stationarity(params, context), (params, context)

    def backward(where, u):
        params, context = where
        return None, mixed_product(loss, params, context, u)

    stationarity.defvjp(forward, backward)
    return stationarity
