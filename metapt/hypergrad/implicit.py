"""The derivative of a trained solution by the implicit function theorem: no step of training is remembered."""

import jax
import optax
from jax import Array

from metapt.checks import whole
from metapt.hypergrad.adjoint import End, last_loss, with_adjoint
from metapt.hypergrad.curvature import hessian_product, mixed_product
from metapt.solvers import jaxopt_backend
from metapt.solvers.neumann import neumann
from metapt.solvers.solver import inner
from metapt.stages import loop as loops
from metapt.types import Fit, Loop, Objective, PyTree, Solve, SolveInfo, Stage


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
        >>> import jax, jax.numpy as jnp
        >>> from metapt.types import StageState
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.5))
        >>> fit = implicit(stage)
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: fit(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> float(jax.grad(end)(2.0))
        1.0
    """
    whole("implicit: batches", batches, why="the last batches that H and M are averaged over")

    def adjoint(end: End, v: PyTree, start: PyTree) -> tuple[PyTree, SolveInfo]:
        params, loss = end.state.params, last_loss(stage.objective, end)
        hessian = hessian_product(loss if curvature is None else last_loss(curvature, end), params, end.context)
        reports = []

        def reported_solve(_, b):
            x, report = solve(hessian, b) if start is None else solve(hessian, b, start)
            reports.append(report._replace(solution=None if start is None else x))
            return x

        (found,) = jaxopt_backend.root_vjp(_stationarity(loss), params, (end.context,), v, reported_solve)
        cheap = mixed_product(loss, params, end.context, optax.tree.scale(-1.0, v))
        return found, reports[0]._replace(agreement=_cosine(found, cheap))

    return with_adjoint(stage, adjoint, loop, batches)


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


def _cosine(one: PyTree, other: PyTree) -> Array:
    """Of the angle between two trees; NaN if one is zero. Integers have no derivative and are left out."""
    a, b = ([leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0] for tree in (one, other))
    return inner(a, b) / (optax.tree.norm(a) * optax.tree.norm(b))
