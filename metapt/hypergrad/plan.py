"""How much memory an unrolled stage takes, before anything is compiled."""

import math
from typing import Any, NamedTuple

import jax

from metapt.stages import assert_stage, loop as loops, step
from metapt.stages.stage import Remat, recomputing_optimizer
from metapt.types import PyTree, Stage, StageState


class UnrollPlan(NamedTuple):
    """What to recompute: `unroll(stage, remat=plan.remat)`. `str(plan)` says it in a line."""

    remat: Remat
    steps: int  # S
    peak_bytes: int  # estimate of what the backward pass keeps
    recomputed: int  # training steps that it runs again
    budget_bytes: int

    def __str__(self) -> str:
        share = f"{_readable(self.peak_bytes)} of {_readable(self.budget_bytes)}"
        return f'unroll {self.steps} steps: remat="{self.remat}", about {share}, {self.recomputed} steps recomputed'


def plan_unroll(stage: Stage, state: StageState, context: PyTree, batches: PyTree, budget_bytes: float) -> UnrollPlan:
    """The `remat` of `unroll` that recomputes least within a budget of memory, from shapes alone; nothing is run.

    With s bytes of state, r bytes that the backward pass of one step needs, and S steps: `"none"` keeps less than `S r`, `"full"`
    `S s + r` and runs S steps again, `"nested"` about `2 sqrt(S) s + r` and runs 2 S again. Batches, parameters and
    the compiler's own scratch come on top. Every argument may be a tree of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: if no plan fits; it names the least budget that would do.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> stage = Stage(lambda params, context, extra, batch, key: ((params**2 * context).sum(), extra), optax.sgd(0.1))
        >>> state = StageState(jnp.zeros(1000, jnp.float32), stage.optimizer.init(jnp.zeros(1000)), None)
        >>> print(plan_unroll(stage, state, jnp.ones(()), jnp.zeros(400), budget_bytes=1e6))
        unroll 400 steps: remat="nested", about 188.0 kB of 1.0 MB, 800 steps recomputed
    """
    assert_stage(stage)
    if not isinstance(state, StageState):
        raise ValueError(f"plan_unroll: state must be a StageState (stages.start), found {type(state).__name__}")
    steps = loops.length(batches)
    size = loops.piece_length(steps)
    s, r = _bytes(state), _bytes(_residuals(stage, state, context, batches))
    kept = _bytes(_residuals(recomputing_optimizer(stage), state, context, batches))
    plans = (
        UnrollPlan("none", steps, steps * kept, 0, int(budget_bytes)),
        UnrollPlan("full", steps, steps * s + r, steps, int(budget_bytes)),
        UnrollPlan("nested", steps, (steps // size + size + steps % size) * s + r, 2 * steps, int(budget_bytes)),
    )
    for plan in plans:
        if plan.peak_bytes <= budget_bytes:
            return plan
    least = min(plan.peak_bytes for plan in plans)
    raise ValueError(
        f"plan_unroll: budget_bytes={budget_bytes:.0f} is too little for {steps} steps; the least that would do is {least} "
        f"({_readable(least)}). Fewer steps, truncate, or forward, whose memory does not grow with the steps"
    )


def _residuals(stage: Stage, state: StageState, context: PyTree, batches: PyTree) -> Any:
    """Shapes of what the backward pass of one step needs of its forward pass."""

    def pull(state, context, batches, key):
        batch = jax.tree.map(lambda x: x[0], batches)
        return jax.vjp(lambda state, context: step(stage, context, state, (batch, key)), state, context)[1]

    return jax.eval_shape(pull, state, context, batches, jax.random.key(0))


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _readable(size: float) -> str:
    """Bytes with a unit, in powers of 1000."""
    power = min(4, max(0, int(math.log10(max(size, 1)) // 3)))
    return f"{size / 1000**power:.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
