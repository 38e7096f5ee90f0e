"""Derivatives by backpropagation through the steps of training: all of them, the last few, a few anywhere, or none."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.tree_util import Partial

from metapt.checks import whole
from metapt.stages import assert_differentiable, loop as loops, step, step_keys, trainer
from metapt.stages.stage import Remat
from metapt.types import Fit, Loop, PyTree, SolveInfo, Stage, StageInfo, StageState


def unroll(stage: Stage, remat: Remat = "full", loop: Loop = loops.auto) -> Fit:
    """The exact derivative of the run, by reverse mode through every step, with respect to state and context.

    Args:
        stage: what is trained; its optimizer must have a finite derivative (`optax.adam` needs `eps_root > 0`).
        remat: `"full"` recomputes the inside of each step (memory: one state a step; about free), `"none"` stores
            all but the optimizer's work, `"nested"` stores about 2 sqrt(S) states for one more forward pass (S of several
            hundred).
        loop: a function with the interface of `jax.lax.scan`; by default chosen from the model and the backend.

    Raises:
        ValueError: when built, if the optimizer cannot be differentiated through, or `remat` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> fit = unroll(stage)
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: fit(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> round(float(jax.grad(end)(2.0)), 6), round(1 - 0.9**3, 6)
        (0.271, 0.271)
    """
    train = trainer(stage, loop, remat)
    assert_differentiable(stage.optimizer, "unroll")

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        return train(state, context, batches, step_keys(key, batches))

    return fit


def truncate(stage: Stage, last: int, remat: Remat = "full", loop: Loop = loops.auto) -> Fit:
    """`unroll` through the last `last` steps; what came before counts as a constant.

    With `last` at least the number of steps it is `unroll`. On a quadratic objective, plain gradient descent of
    `J + 1` steps has the same derivative as a Neumann series of `J` terms with the learning rate as its step.

    Raises:
        ValueError: when built, if `last < 1`, or as `unroll`.

    Example:
        >>> import jax.numpy as jnp
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: truncate(stage, last=2)(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> round(float(jax.grad(end)(2.0)), 6), round(1 - 0.9**2, 6)
        (0.19, 0.19)
    """
    whole("truncate: last", last, why="the number of steps to differentiate through")
    train = trainer(stage, loop, remat)
    assert_differentiable(stage.optimizer, "truncate")

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        cut = len(keys) - last
        if cut <= 0:
            return train(state, context, batches, keys)
        before = jax.tree.map(lambda x: x[:cut], (batches, keys))
        after = jax.tree.map(lambda x: x[cut:], (batches, keys))
        state, early = train(lax.stop_gradient(state), lax.stop_gradient(context), *before)
        state, late = train(lax.stop_gradient(state), context, *after)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)

    return fit


def windowed(stage: Stage, window: int, remat: Remat = "full", loop: Loop = loops.auto) -> Fit:
    """`unroll` through `window` neighbouring steps at a random place, where training then stops.

    The first step of the window is uniform in `0 .. S - window`, drawn from the key; the steps before it are run and count as
    constants, those after it are left out (NaN in `info`). So the memory is that of `truncate(last=window)`, and yet every
    stage of training has its say: where `truncate` sees the end alone, the mean over the keys is
    `mean_b truncate(run of b + window steps)`. With `window` at least the number of steps it is `unroll`.

    Raises:
        ValueError: when built, if `window < 1`, or as `unroll`.

    Source: Feng et al. 2024, "Embarrassingly Simple Dataset Distillation", section 3 (RaT-BPTT).

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> fit, start = windowed(stage, 2), StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end, info = fit(start, 2.0, jnp.zeros(8), jax.random.key(0))
        >>> taken = int(jnp.isfinite(info.loss).sum())
        >>> bool(jnp.allclose(end.params, 2 + 3 * 0.9**taken))
        True
        >>> slope = jax.grad(lambda c: fit(start, c, jnp.zeros(8), jax.random.key(0))[0].params)(2.0)
        >>> round(float(slope), 6), round(1 - 0.9**2, 6)
        (0.19, 0.19)
    """
    whole("windowed: window", window, why="the number of steps to differentiate through")
    train = trainer(stage, loop, remat)
    assert_differentiable(stage.optimizer, "windowed")
    advance = functools.partial(_step_before, stage)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        free = len(keys) - window
        if free <= 0:
            return train(state, context, batches, keys)
        first = jax.random.randint(jax.random.fold_in(key, len(keys)), (), 0, free + 1)
        steps = jnp.arange(free), jax.tree.map(lambda x: x[:free], (batches, keys))
        before, early = loop(Partial(advance, lax.stop_gradient(context), first), lax.stop_gradient(state), steps)
        # A window that begins at the start differentiates it too.
        begin = jax.tree.map(lambda start, x: jnp.where(first == 0, start, x), state, lax.stop_gradient(before))
        inside = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, window), (batches, keys))
        state, late = train(begin, context, *inside)
        return state, jax.tree.map(functools.partial(_placed, first), early, late)

    return fit


def _step_before(stage: Stage, context: PyTree, first: Array, state: StageState, numbered: tuple[Array, tuple]):
    """A step of training if its number is below `first`; else nothing, and no figures."""
    number, inputs = numbered
    taken = functools.partial(step, stage, context)
    blank = jax.tree.map(_no_figures, jax.eval_shape(taken, state, inputs)[1])
    return lax.cond(number < first, taken, lambda state, inputs: (state, blank), state, inputs)


def _placed(first: Array, early: Array, late: Array) -> Array:
    """The window's figures after those of the steps before it, and none after it."""
    return lax.dynamic_update_slice_in_dim(jnp.concatenate([early, _no_figures(late)]), late, first, 0)


def _no_figures(like: Array) -> Array:
    return jnp.full(like.shape, False if like.dtype == bool else jnp.nan, like.dtype)


def detached(stage: Stage, loop: Loop = loops.auto) -> Fit:
    """The end counts as a constant: it moves neither with the start nor with the context.

    For a validation loss in which the start stands itself, as the squared distance that makes Reptile
    (`objectives.half_square_from_start`). Any optimizer will do, none is differentiated.

    Example:
        >>> import jax.numpy as jnp
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> end = lambda c: detached(stage)(state, c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> round(float(end(2.0)), 3), float(jax.grad(end)(2.0))
        (4.187, 0.0)
    """
    train = trainer(stage, loop)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        return lax.stop_gradient(train(*lax.stop_gradient((state, context)), batches, step_keys(key, batches)))

    return fit


def first_order(stage: Stage, loop: Loop = loops.auto) -> Fit:
    """The end moves as the start does, `d end / d start = I`, and not with the context (first-order MAML).

    Any optimizer will do, none is differentiated. Source: Finn et al. 2017, section 5.2.

    Example:
        >>> import jax.numpy as jnp
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> state = lambda w: StageState(w, stage.optimizer.init(w), None)
        >>> end = lambda w, c: first_order(stage)(state(w), c, jnp.zeros(3), jax.random.key(0))[0].params
        >>> [float(slope) for slope in jax.grad(end, argnums=(0, 1))(5.0, 2.0)]
        [1.0, 0.0]
    """
    train = detached(stage, loop)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        end, info = train(state, context, batches, key)
        # Adds an exact zero whose derivative is the identity: the value keeps every bit.
        moved = optax.tree.sub(state.params, lax.stop_gradient(state.params))
        return end._replace(params=optax.tree.add(end.params, moved)), info

    return fit
