"""Objective + optimizer = a training run, as one pure function. The loop over its steps stands here and nowhere else."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import Partial

from metapt.stages import loop as loops
from metapt.stages.check import assert_stage
from metapt.types import Loop, Model, Objective, PyTree, Stage, StageInfo, StageState, StatefulModel

Remat = Literal["none", "full", "nested"]
Train = Callable[[StageState, PyTree, PyTree, Array], tuple[StageState, StageInfo]]


def start(stage: Stage, params: PyTree, extra: PyTree = None) -> StageState:
    """The state of a stage before its first step.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.sgd(0.1))
        >>> start(stage, 3.0).params
        3.0
    """
    assert_stage(stage)
    return StageState(params, stage.optimizer.init(params), extra)


def start_model(stage: Stage, model: Model | StatefulModel, key: Array) -> StageState:
    """The state of a stage before its first step, with a model's own parameters, and its running averages if it has any.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.sgd(0.1))
        >>> start_model(stage, Model(lambda key: 3.0, lambda params, x: params * x), jax.random.key(0)).params
        3.0
    """
    made = model.init(key)
    return start(stage, *made) if isinstance(model, StatefulModel) else start(stage, made)


def step(
    stage: Stage, context: PyTree, state: StageState, inputs: tuple[PyTree, Array]
) -> tuple[StageState, StageInfo]:
    """One step of training: `inputs` is `(batch, key)`.

    Where the gradient is not finite, the optimizer sees a gradient of zero, `extra` stays as it is, and
    `info.skipped` says so. A derivative through such a step is not finite either: `updates.by_gradient` drops it.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.sgd(0.1))
        >>> state, info = step(stage, None, start(stage, 3.0), (None, jax.random.key(0)))
        >>> round(float(state.params), 4), float(info.loss), float(info.grad_norm)
        (2.4, 9.0, 6.0)
    """
    batch, key = inputs
    value_and_grad = jax.value_and_grad(_checked(stage.objective), has_aux=True)
    (loss, extra), gradient = value_and_grad(state.params, context, state.extra, batch, key)
    norm = optax.tree.norm(gradient)
    # The loss is not asked: nobody may want it, and then a gradient comes without it (several per cent of a step).
    finite, dead = jnp.isfinite(norm), _dead_units(gradient, norm)
    # Of the gradient, not of the state after: a select among parameters and moments costs several per cent of a step.
    gradient, extra = (
        jax.tree.map(lambda new, old: jnp.where(finite, new, old), *pair)
        for pair in ((gradient, optax.tree.zeros_like(gradient)), (extra, state.extra))
    )
    params, opt_state = move(stage, context, state, gradient)
    return StageState(params, opt_state, extra), StageInfo(loss, norm, ~finite, dead)


def _dead_units(gradient: PyTree, like: Array) -> Array:
    """The share of zeros in the gradient of biases and scales: to look at whole matrices costs several per cent of a step.

    Outputs are no units, as a task may have no weight and no label: a head is left out, and so is a bias without another.
    """
    encoder = gradient.get("encoder") if isinstance(gradient, Mapping) else None
    leaves = jax.tree.leaves(gradient if encoder is None else encoder)
    leaves = [leaf.ravel() for leaf in leaves if leaf.ndim and leaf.size == leaf.shape[-1]]
    fewest = 2 if encoder is None else 1
    zero = jnp.concatenate(leaves) == 0 if len(leaves) >= fewest else jnp.array(jnp.nan)
    return zero.mean(dtype=like.dtype)


def stationarity_gap(end: StageState, info: StageInfo) -> Array:
    """How far from rest a run stopped: `|gradient| |params| / |loss|` of its last step, 0 at rest.

    The share of the loss by which a change of the parameters by their own length would lower it, to first order; so it has
    no unit, and stays as it is if loss or parameters are scaled. What a constant adds to the loss, it does change.

    Source: the relative gradient of Dennis and Schnabel 1983, "Numerical Methods for Unconstrained Optimization and Nonlinear
    Equations", section 7.2, of the whole in place of the coordinates.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.sgd(0.0))
        >>> end, info = trainer(stage)(start(stage, 3.0), None, jax.numpy.zeros(1), jax.random.split(jax.random.key(0), 1))
        >>> float(stationarity_gap(end, info))  # 6 * 3 / 9
        2.0
    """
    return info.grad_norm[-1] * optax.tree.norm(end.params) / jax.numpy.abs(info.loss[-1])


def _checked(objective: Objective) -> Callable:
    """The objective, which must return what `Objective` says (seen when it is traced)."""

    def checked(params, context, extra, batch, key):
        found = objective(params, context, extra, batch, key)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ValueError(
                f"objective: it must return (loss, extra), found {type(found).__name__}; return (loss, extra)"
            )
        if jnp.shape(found[0]) != () or not jnp.issubdtype(jnp.result_type(found[0]), jnp.floating):
            kind = f"{jnp.result_type(found[0])} {list(jnp.shape(found[0]))}"
            raise ValueError(
                f"objective: the loss must be one floating number, found {kind}; take the mean over the batch"
            )
        came, left = (jax.tree.map(_kind, tree) for tree in (extra, found[1]))
        if jax.tree.structure(came) != jax.tree.structure(left) or jax.tree.leaves(came) != jax.tree.leaves(left):
            raise ValueError(f"objective: extra came as {came} and must be returned alike, found {left}")
        return found

    return checked


def _kind(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def move(stage: Stage, context: PyTree, state: StageState, gradient: PyTree) -> tuple[PyTree, PyTree]:
    """What the optimizer makes of a gradient: `(params, opt_state)`. One that has settings in the context gets to see it.

    Example:
        >>> stage = Stage(objective=lambda *inputs: None, optimizer=optax.sgd(0.1))
        >>> params, _ = move(stage, None, StageState(jnp.array(5.0), stage.optimizer.init(5.0), None), jnp.array(10.0))
        >>> float(params)
        4.0
    """
    optimizer = optax.with_extra_args_support(stage.optimizer)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, context=context)
    return optax.apply_updates(state.params, updates), opt_state


def trainer(stage: Stage, loop: Loop = loops.auto, remat: Remat = "none") -> Train:
    """`train(state, context, batches, keys)`: one step a batch. The derivative is plain autodiff's; rules build on this.

    Args:
        loop: a function with the interface of `jax.lax.scan`; by default chosen from the model and the backend.
        remat: what the backward pass recomputes: `"none"` the optimizer's work alone, `"full"` the inside of
            every step, `"nested"` also the states between about sqrt(S) of the S steps.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optax.sgd(0.1))
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> batches = jnp.zeros(3)
        >>> end, info = trainer(stage)(state, 2.0, batches, step_keys(jax.random.key(0), batches))
        >>> round(float(end.params - 2), 3), round(3 * 0.9**3, 3), info.loss.shape
        (2.187, 2.187, (3,))
    """
    assert_stage(stage)
    if remat not in get_args(Remat):
        raise ValueError(f"remat: {remat!r} is not one of {', '.join(map(repr, get_args(Remat)))}")
    # Made once: the host loop recognises its compiled step by this object.
    if remat == "none":
        body = functools.partial(step, recomputing_optimizer(stage))
    else:
        body = jax.checkpoint(functools.partial(step, stage))
    run = functools.partial(loops.nested, loop) if remat == "nested" else loop

    def train(state: StageState, context: PyTree, batches: PyTree, keys: Array) -> tuple[StageState, StageInfo]:
        return run(Partial(body, context), state, (batches, keys))

    return train


def recomputing_optimizer(stage: Stage) -> Stage:
    """The stage whose optimizer's work is done again in the backward pass: to store what Adam computes on the way costs more.

    Example:
        >>> stage = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.adam(0.1))
        >>> start = StageState(3.0, stage.optimizer.init(3.0), None)
        >>> moved = [move(each, None, start, jnp.array(2.0))[0] for each in (stage, recomputing_optimizer(stage))]
        >>> bool(moved[0] == moved[1])
        True
    """
    optimizer = optax.with_extra_args_support(stage.optimizer)
    again = optax.GradientTransformationExtraArgs(optimizer.init, jax.checkpoint(optimizer.update))
    return stage._replace(optimizer=again)


def step_keys(key: Array, batches: PyTree) -> Array:
    """One key a step, `[S]`.

    Example:
        >>> step_keys(jax.random.key(0), {"x": jnp.zeros((3, 8, 64))}).shape
        (3,)
    """
    steps = loops.length(batches)
    try:
        return jax.random.split(key, steps)
    except TypeError as error:
        raise ValueError(f"key: {key!r} must be a key, for example jax.random.key(0)") from error
