"""The derivative of a run that is taken back step by step: nothing is remembered of it but what rounding lost."""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.tree_util import Partial

from metapt.stages import assert_differentiable, assert_stage, depends, loop as loops, step, step_keys, trainer
from metapt.types import Fit, Loop, Objective, PyTree, SolveInfo, Stage, StageInfo, StageState


def reversible(stage: Stage, loop: Loop = loops.auto) -> Fit:
    """What `unroll` gives, with respect to start and context, at a memory of two states however many steps there were.

    The backward pass undoes one step after the other, bit for bit, and pulls the cotangent through it:

        theta_t = theta_{t+1} + rate v_{t+1},   v_t = (v_{t+1} - grad L(theta_t)) / momentum

    For `optimizers.reversible_sgd`, whose state keeps what this division needs (32 bits a parameter for every 173 steps at a
    momentum of 0.9, where `unroll` keeps 64 bits a step), at the time of `remat="nested"`: one more gradient a step. The
    start is rounded to the optimizer's grid first. Batches, and the `extra` at the end, are constants.

    A run that did not come back to where it began, bit for bit, has a hypergradient of NaN: parameters or velocities beyond the
    optimizer's `limit`, or gradients that are not the same twice (some kernels on a GPU add in any order).

    Raises:
        ValueError: when built, if the optimizer can't be undone (it needs `optimizers.reversible_sgd`, behind nothing but
            transformations without a state); when traced, if `extra` changes and the gradient depends on it, or the run is longer
            than the optimizer's `steps`.

    Source: Maclaurin, Duvenaud, Adams 2015, "Gradient-based Hyperparameter Optimization through Reversible Learning",
    algorithm 2.

    Example:
        >>> from metapt.optimizers import reversible_sgd
        >>> optimizer = reversible_sgd(0.1, momentum=0.5, steps=10)
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - context) ** 2, extra), optimizer)
        >>> fit, state = reversible(stage), StageState(jnp.array(5.0), optimizer.init(jnp.array(5.0)), None)
        >>> end = lambda c: fit(state, c, jnp.zeros(2), jax.random.key(0))[0].params
        >>> round(float(jax.grad(end)(2.0)), 6)  # 1 - (0.9**2 - 0.1 * 0.5)
        0.24
    """
    assert_stage(stage)
    assert_differentiable(stage.optimizer, "reversible")
    _assert_reversible(stage.optimizer)
    # Forwards and backwards the gradient must be the same to the last bit: kept apart, it is compiled the same.
    steady = stage._replace(objective=_kept_apart(stage.objective))
    train = trainer(steady, loop)

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        keys = step_keys(key, batches)
        _refuse_changing_extra(stage, state, context, jax.tree.map(lambda x: x[0], (batches, keys)))
        return run(state, context, batches, keys)

    @jax.custom_vjp
    def run(state, context, batches, keys):
        return forward(state, context, batches, keys)[0]

    def forward(state, context, batches, keys):
        start = _in_phase("start", stage.optimizer, state, context=context, run=len(keys))
        end, info = train(start, context, batches, keys)
        return (end, info), (start.params, _floating(start.opt_state), end, context, batches, keys)

    def backward(residuals, cotangents):
        *start, end, context, batches, keys = residuals
        end_bar, info_bar = cotangents
        bar = end_bar.params, _floating(end_bar.opt_state)
        zeros = optax.tree.zeros_like(_floating(context))
        numbers = jnp.arange(len(keys))[::-1]
        (begin, (*bar, context_bar)), _ = loop(
            Partial(back, context, (batches, keys, info_bar)), (end, (*bar, zeros)), numbers
        )
        found = jax.tree.leaves((begin.params, _floating(begin.opt_state)))
        same = jnp.stack([(a == b).all() for a, b in zip(jax.tree.leaves(start), found, strict=True)]).all()
        params, moments, values = jax.tree.map(lambda leaf: jnp.where(same, leaf, jnp.nan), (*bar, context_bar))
        return (
            StageState(params, _joined(end.opt_state, moments, None), None),
            _joined(context, values, None),
            None,
            None,
        )

    def back(context, inputs, carry, number):
        after, (*bar, context_bar) = carry
        batch, key, info_bar = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), inputs)
        before = _undo(steady, context, after, batch, key)

        def once(params, moments, values):
            state = StageState(params, _joined(before.opt_state, moments), before.extra)
            moved, info = step(stage, _joined(context, values), state, (batch, key))
            return moved.params, _floating(moved.opt_state), info

        _, pull = jax.vjp(once, before.params, _floating(before.opt_state), _floating(context))
        *bar, seen = pull((*bar, info_bar))
        return (before, (*bar, optax.tree.add(context_bar, seen))), None

    run.defvjp(forward, backward)
    return fit


def _undo(stage: Stage, context: PyTree, after: StageState, batch: PyTree, key: Array) -> StageState:
    """The state before a step: first the parameters, then, with their gradient, the optimizer's state."""
    before = _in_phase("undo_move", stage.optimizer, after, context=context)
    gradient, _ = jax.grad(stage.objective, has_aux=True)(before.params, context, after.extra, batch, key)
    opt_state = _in_phase("undo_momentum", stage.optimizer, before, gradient, context=context).opt_state
    return before._replace(opt_state=opt_state)


def _in_phase(phase, optimizer, state: StageState, gradient: PyTree = None, **extra_args) -> StageState:
    """An update of another kind than a step: the phases of `optimizers.reversible_sgd`."""
    gradient = optax.tree.zeros_like(state.params) if gradient is None else gradient
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(gradient, state.opt_state, state.params, phase=phase, **extra_args)
    return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)


def _kept_apart(objective: Objective) -> Objective:
    return lambda params, context, extra, batch, key: objective(
        lax.optimization_barrier(params), context, extra, batch, key
    )


def _assert_reversible(optimizer: optax.GradientTransformation) -> None:
    """Takes two steps and takes them back. One that only accepts its own parameter tree can't be probed and passes."""
    with jax.ensure_compile_time_eval():  # also where a rule is built inside a function that is being traced
        params = {"probe": jnp.array([0.3, -1.0], jnp.float32)}
        try:
            opt_state = optimizer.init(params)
        except (KeyError, TypeError, ValueError):
            return
        start = state = _in_phase("start", optimizer, StageState(params, opt_state, None))
        gradients = [params, jax.tree.map(jnp.square, params)]
        for gradient in gradients:
            state = _in_phase("step", optimizer, state, gradient)
        for gradient in gradients[::-1]:
            state = _in_phase("undo_move", optimizer, state)
            opt_state = _in_phase("undo_momentum", optimizer, state, gradient).opt_state
            state = state._replace(opt_state=opt_state)
        again = _in_phase("start", optimizer, start)
        found = jax.tree.leaves((state, again))
        came_back = all(bool((a == b).all()) for a, b in zip(found, jax.tree.leaves((start, start)), strict=True))
    if not came_back:
        raise ValueError(
            "reversible: the optimizer's steps can't be taken back bit for bit; use optimizers.reversible_sgd(learning_rate, "
            "momentum, steps=...), alone or behind transformations without a state (clipping, weight decay), or "
            'unroll(stage, remat="nested"), which takes any optimizer'
        )


def _refuse_changing_extra(stage: Stage, state: StageState, context: PyTree, first: tuple[PyTree, Array]) -> None:
    """What changes along the way is not known on the way back, unless training does not depend on it."""
    leaves, structure = jax.tree.flatten(state.extra)
    whole = lambda leaves: stage.objective(state.params, context, structure.unflatten(leaves), *first)
    jaxpr = jax.make_jaxpr(lambda leaves: jax.tree.leaves(whole(leaves)[1]))(leaves).jaxpr
    for i, leaf in enumerate(leaves):

        def slope(leaf, i=i):
            extra = structure.unflatten([*leaves[:i], leaf, *leaves[i + 1 :]])
            return jax.grad(stage.objective, has_aux=True)(state.params, context, extra, *first)[0]

        if jaxpr.outvars[i] is not jaxpr.invars[i] and any(jax.tree.leaves(depends(slope, leaf))):
            raise ValueError(
                "reversible: extra changes from step to step and the gradient depends on it, so a step can't be taken back "
                '(running averages: mode="batch" or "frozen"); use unroll(stage, remat="nested")'
            )


def _floating(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _joined(tree: PyTree, values: list[Array], *other) -> PyTree:
    """The tree with these floating leaves; the others stay, or are `other`."""
    new = iter(values)
    return jax.tree.map(
        lambda leaf: next(new) if jnp.issubdtype(leaf.dtype, jnp.inexact) else (other or (leaf,))[0], tree
    )
