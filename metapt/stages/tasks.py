"""Many tasks from one start: a fit over them side by side; and what stands in a stage's place where there is none."""

import jax
import jax.numpy as jnp
from jax import Array

from metapt.stages.stage import step_keys
from metapt.types import Fit, PyTree, SolveInfo, StageInfo, StageState


def over_tasks(fit: Fit) -> Fit:
    """`fit` of T tasks that share the start and the context: batches `[S, T, ...]`, the state it ends with `[T, ...]`.

    `info` is `[S, T]`. The report is the mean over the tasks, and every solve starts at zero.

    Example:
        >>> from metapt.hypergrad import unroll
        >>> from metapt.types import Stage
        >>> import optax
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - batch) ** 2, extra), optax.sgd(0.5))
        >>> start = StageState(jnp.array(0.0), stage.optimizer.init(0.0), None)
        >>> end, info = over_tasks(unroll(stage))(start, None, jnp.array([[1.0, 3.0]]), jax.random.key(0))
        >>> end.params.tolist(), info.loss.shape
        ([0.5, 1.5], (1, 2))
    """

    def fit_tasks(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        first = jax.tree.map(lambda x: x[0], batches)
        keys = step_keys(key, first)
        if report is not None:  # one a task: their cotangents add up
            shares = lambda x: jnp.full(len(keys), x / len(keys))
            report = jax.tree.map(shares, report._replace(solution=None))
        side_by_side = jax.vmap(fit, in_axes=(None, None, 1, 0, 0), out_axes=(0, 1))
        return side_by_side(state, context, batches, keys, report)

    return fit_tasks


def given(
    state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
) -> tuple[StageState, StageInfo]:
    """No pre-training: the parameters are the context. For `meta_pretraining` of the initialisation; what it tells is NaN.

    Example:
        >>> state, info = given(StageState(1.0, None, None), 2.0, None, jax.random.key(0))
        >>> state.params, info.loss.tolist()
        (2.0, [nan])
    """
    return state._replace(params=context), _nothing()


def untouched(
    state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
) -> tuple[StageState, StageInfo]:
    """No training: the state as it came. For `meta_pretraining` with one stage of training only; what it tells is NaN.

    Example:
        >>> state, info = untouched(StageState(1.0, None, None), 2.0, None, jax.random.key(0))
        >>> state.params, info.loss.tolist()
        (1.0, [nan])
    """
    return state, _nothing()


def _nothing() -> StageInfo:
    nan = jnp.full(1, jnp.nan)
    return StageInfo(nan, nan, jnp.zeros(1, bool), nan)
