"""What rules share that remember no step of training: they look at its end, in the backward pass."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from metapt.stages import step_keys, trainer
from metapt.types import Fit, Loop, Objective, PyTree, SolveInfo, Stage, StageInfo, StageState


class End(NamedTuple):
    """Where training stopped, and what its last steps saw."""

    state: StageState
    context: PyTree
    batches: PyTree  # [n, ...]
    keys: Array  # [n]


# (end, v, start of the solve or None) -> (v' d params / d context, report)
Adjoint = Callable[[End, PyTree, PyTree], tuple[PyTree, SolveInfo]]


def last_loss(objective: Objective, end: End) -> Callable[[PyTree, PyTree], Array]:
    """`(params, context) -> loss`, the mean of the objective over the last steps, each with its batch and key."""

    def loss(params, context):
        one = lambda batch, key: objective(params, context, end.state.extra, batch, key)[0]
        if len(end.keys) == 1:  # as it stands: not every model can be mapped
            return one(*jax.tree.map(lambda x: x[0], (end.batches, end.keys)))
        return jax.vmap(one)(end.batches, end.keys).mean()

    return loss


def with_adjoint(stage: Stage, adjoint: Adjoint, loop: Loop, batches: int = 1) -> Fit:
    """A fit whose derivative in the context is what `adjoint` finds at the end of training; in the start it is 0.

    `adjoint` sees the last `batches` steps. What it reports comes back as the cotangent of `report`.
    """
    train, count = trainer(stage, loop), batches

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        if len(keys) < count:
            raise ValueError(
                f"implicit: batches={count} but the run has {len(keys)} steps; lower batches, or give it more steps"
            )
        state, info = lax.stop_gradient(train(*lax.stop_gradient((state, context)), batches, keys))
        end = End(state, None, *jax.tree.map(lambda x: x[-count:], (batches, keys)))
        report = SolveInfo.blank() if report is None else report
        return state._replace(params=trained(context, end, report)), info

    @jax.custom_vjp
    def trained(context, end, report):
        return end.state.params

    def forward(context, end, report):
        return end.state.params, (end._replace(context=context), report)

    def backward(residuals, v):
        end, report = residuals
        context_bar, found = adjoint(end, v, report.solution)
        if found.solution is None:  # a rule that starts every solve at zero
            found = found._replace(solution=optax.tree.zeros_like(report.solution))
        return context_bar, None, jax.tree.map(lambda new, slot: jnp.asarray(new, slot.dtype), found, report)

    trained.defvjp(forward, backward)
    return fit
