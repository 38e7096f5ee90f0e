"""The derivative of a trained solution by the implicit function theorem: no step of training is remembered."""

import jax
from jax import Array, lax

from metapt.solvers import jaxopt_backend
from metapt.solvers.neumann import neumann
from metapt.stages import loop as loops, step_keys, trainer
from metapt.types import Fit, Loop, PyTree, Solve, SolveInfo, Stage, StageInfo, StageState


def implicit(stage: Stage, solve: Solve = neumann(terms=5), loop: Loop = loops.auto) -> Fit:
    """Where training has come to rest, the gradient is zero, and stays zero as the context c moves:

        dL/dtheta(theta*, c) = 0   =>   dtheta*/dc = - H^-1 M,   H = d2L/dtheta2,   M = d2L/dtheta dc

    The backward pass computes `- (H^-1 v)' M` with `solve` for `H^-1 v`. `H` and `M` are taken at the last batch and
    its key, so both see the same examples, augmentations and dropout masks. The optimizer plays no part.

    The start of the run has no influence on where it comes to rest, so its derivative is zero; so are those of the
    optimizer's settings. `extra` is a constant. Away from rest the result is an approximation: read the report.

    Args:
        stage: what is trained, with any optimizer.
        solve: the inverse-Hessian product, from `metapt.solvers`.
        loop: a function with the interface of `jax.lax.scan`; by default chosen from the model and the backend.

    Returns:
        A fit. The gradient with respect to its argument `report` is the `SolveInfo` of the backward pass.

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
    train = trainer(stage, loop)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        end, info = lax.stop_gradient(train(*lax.stop_gradient((state, context)), batches, keys))
        last = jax.tree.map(lambda x: x[-1], batches), keys[-1]
        report = SolveInfo.blank() if report is None else report
        return end._replace(params=solution(end.params, context, end.extra, *last, report)), info

    @jax.custom_vjp
    def solution(params, context, extra, batch, key, report):
        return params

    def forward(params, context, extra, batch, key, report):
        return params, (params, context, extra, batch, key, report)

    def backward(residuals, v):
        params, context, extra, batch, key, report = residuals

        def loss(params, context):
            return stage.objective(params, context, extra, batch, key)[0]

        _, hessian = jax.linearize(lambda params: jax.grad(loss)(params, context), params)
        stationarity = _with_forward_over_reverse(loss)
        reports = []

        def reported_solve(_, b):
            x, info = solve(hessian, b)
            reports.append(info)
            return x

        (context_bar,) = jaxopt_backend.root_vjp(stationarity, params, (context,), v, reported_solve)
        report_bar = jax.tree.map(lambda new, slot: new.astype(slot.dtype), reports[0], report)
        return None, context_bar, None, None, None, report_bar

    solution.defvjp(forward, backward)
    return fit


def _with_forward_over_reverse(loss):
    """dL/dtheta as a function of the context, whose transpose is taken as d/dc of the directional derivative of L.

    Left to itself, autodiff goes reverse over reverse here, which on a convolution network costs several times as much.
    """

    @jax.custom_vjp
    def stationarity(params, context):
        return jax.grad(loss)(params, context)

    def forward(params, context):
        return stationarity(params, context), (params, context)

    def backward(residuals, u):
        params, context = residuals
        along_u = lambda context: jax.jvp(lambda params: loss(params, context), (params,), (u,))[1]
        return None, jax.grad(along_u, allow_int=True)(context)

    stationarity.defvjp(forward, backward)
    return stationarity
