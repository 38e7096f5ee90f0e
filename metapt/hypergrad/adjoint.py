"""What rules share that remember no step of training: they look at its end, in the backward pass."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import Array, lax

from metapt.stages import step_keys, trainer
from metapt.types import Fit, Loop, PyTree, SolveInfo, Stage, StageInfo, StageState


class End(NamedTuple):
    """Where training stopped, and what its last step saw."""

    state: StageState
    context: PyTree
    batch: PyTree
    key: Array


def last_loss(stage: Stage, end: End) -> Callable[[PyTree, PyTree], Array]:
    """The objective of the last step, as a function of parameters and context."""
    return lambda params, context: stage.objective(params, context, end.state.extra, end.batch, end.key)[0]


def with_adjoint(stage: Stage, adjoint: Callable[[End, PyTree], tuple[PyTree, SolveInfo]], loop: Loop) -> Fit:
    """A fit whose derivative in the context is `adjoint(end, v) -> (v' d params / d context, report)`; in the start it is 0."""
    train = trainer(stage, loop)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        state, info = lax.stop_gradient(train(*lax.stop_gradient((state, context)), batches, keys))
        end = End(state, context, jax.tree.map(lambda x: x[-1], batches), keys[-1])
        report = SolveInfo.blank() if report is None else report
        return state._replace(params=trained(context, end._replace(context=None), report)), info

    @jax.custom_vjp
    def trained(context, end, report):
        return end.state.params

    def forward(context, end, report):
        return end.state.params, (end._replace(context=context), report)

    def backward(residuals, v):
        end, report = residuals
        context_bar, found = adjoint(end, v)
        found = found._replace(solution=optax.tree.zeros_like(report.solution))  # every solve starts at zero
        return context_bar, None, jax.tree.map(lambda new, slot: new.astype(slot.dtype), found, report)

    trained.defvjp(forward, backward)
    return fit
