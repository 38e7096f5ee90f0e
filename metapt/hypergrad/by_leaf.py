"""A rule for every meta-parameter, and which of them a stage's derivative cannot reach."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from metapt.stages import assert_stage, depends, loop as loops, move
from metapt.types import Fit, PyTree, Rule, SolveInfo, Stage, StageInfo, StageState

_AT_REST = "where training comes to rest does not depend on it; use unroll or forward"
_NOWHERE = "neither the gradient of the objective nor the optimizer depends on it; no rule sees it"


def by_leaf(stage: Stage, rules: Mapping[str, Rule], start: Rule | None = None) -> Fit:
    """Every leaf of the context has the derivative of its own rule, the parameters at the start that of `start`.

    Implicit differentiation sees task weights and no learning rate; unrolling sees both and remembers every step. One run of
    training for every different rule; the values are those of the first.

    Args:
        rules: from the path of a leaf, or of a part of the tree, to a rule: `{"weights": implicit, "optimizer/rate": unroll}`.
        start: a rule that sees the start (`unroll`, `proximal`, `first_order`); None: the start is a constant.

    Raises:
        ValueError: when traced, if a leaf has no rule or one that cannot see it (its derivative would be exactly zero), and why.

    Example:
        >>> import functools
        >>> from metapt.hypergrad import implicit, truncate
        >>> from metapt.optimizers import from_context
        >>> optimizer = from_context(lambda c: optax.sgd(c["rate"]), {"rate": 0.5})
        >>> objective = lambda params, c, extra, batch, key: (0.5 * (params - c["target"]) ** 2, extra)
        >>> stage = Stage(objective, optimizer)
        >>> fit = by_leaf(stage, {"target": implicit, "rate": functools.partial(truncate, last=1)})
        >>> state, context = StageState(jnp.array(5.0), optimizer.init(5.0), None), {"rate": 0.5, "target": 1.0}
        >>> jax.tree.map(float, jax.grad(lambda c: fit(state, c, jnp.zeros(2), jax.random.key(0))[0].params)(context))
        {'rate': -2.0, 'target': 1.0}
        >>> by_leaf(stage, {"target": implicit, "rate": implicit})(state, context, jnp.zeros(2), jax.random.key(0))
        Traceback (most recent call last):
        ...
        ValueError: by_leaf: 'rate' is invisible to its rule: where training comes to rest does not depend on it; use ...
    """
    fits = {rule: rule(stage) for rule in (*rules.values(), *([start] if start else []))}

    def fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        chosen = {path: _rule_of(path, rules) for path in _floating(context)}
        if idle := [name for name in rules if not any(_within(path, name) for path in chosen)]:
            raise ValueError(f"by_leaf: rules for {idle}, but the leaves of the context are {sorted(chosen)}")
        _refuse_invisible(stage, fits, chosen, start, state, context, batches, key)
        ends = []
        for rule, run in fits.items():
            own = jax.tree_util.tree_map_with_path(
                lambda path, leaf, rule=rule: leaf if chosen.get(_name(path)) is rule else lax.stop_gradient(leaf),
                context,
            )
            params = state.params if rule is start else lax.stop_gradient(state.params)
            ends.append(run(lax.stop_gradient(state)._replace(params=params), own, batches, key, report))
        (end, info), *_ = lax.stop_gradient(ends)
        # Each adds an exact zero that has its derivative.
        moved = [optax.tree.sub(one.params, lax.stop_gradient(one.params)) for one, _ in ends]
        return end._replace(params=jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), end.params, *moved)), info

    return fit


def cut_paths(stage: Stage, state: StageState, context: PyTree, batches: PyTree) -> dict[str, str]:
    """Where the derivative in a leaf of the context is cut, leaf by leaf: why some rules, or all, give it an exact zero.

    Read from the computation, not from numbers: a leaf that is absent here may have a zero derivative, but not always.

    Example:
        >>> objective = lambda params, c, extra, batch, key: (0.5 * (params - c["target"]) ** 2 + c["offset"], extra)
        >>> stage = Stage(objective, optax.sgd(0.1))
        >>> state = StageState(jnp.array(5.0), stage.optimizer.init(5.0), None)
        >>> cut_paths(stage, state, {"target": 1.0, "offset": 2.0}, jnp.zeros(3))
        {'offset': 'neither the gradient of the objective nor the optimizer depends on it; no rule sees it'}
    """
    assert_stage(stage)
    loops.length(batches)
    batch, key = jax.tree.map(lambda x: x[0], batches), jax.random.key(0)
    slope = lambda c: jax.grad(lambda p: stage.objective(p, c, state.extra, batch, key)[0])(state.params)
    gradient = slope(context)
    in_objective = reached(slope, context)
    in_optimizer = reached(lambda c: move(stage, c, state, gradient), context)
    return {
        path: _AT_REST if path in in_optimizer else _NOWHERE for path in _floating(context) if path not in in_objective
    }


def _refuse_invisible(stage, fits, chosen, start, state, context, batches, key) -> None:
    first = jax.tree.map(lambda x: x[:1], batches)  # what a rule sees, it sees in one step
    ends = {
        rule: lambda state, context, run=run: run(state, context, first, key)[0].params for rule, run in fits.items()
    }
    seen = {rule: reached(lambda c, end=end: end(state, c), context) for rule, end in ends.items()}
    for path, rule in chosen.items():
        if path not in seen[rule]:
            reason = cut_paths(stage, state, context, batches).get(path, "the rule sees no context at all; use unroll")
            raise ValueError(f"by_leaf: {path!r} is invisible to its rule: {reason}")
    if start and not reached(lambda params: ends[start](state._replace(params=params), context), state.params):
        raise ValueError("by_leaf: the start is invisible to its rule; use unroll, proximal or first_order")


def reached(f: Callable[[PyTree], PyTree], at: PyTree) -> set[str]:
    """Paths of the leaves of `at` whose cotangent through `f` is computed from the cotangent of `f(at)`."""

    def of_floating(leaves):
        whole = jax.tree_util.tree_map_with_path(lambda path, leaf: leaves.get(_name(path), leaf), at)
        return [leaf for leaf in jax.tree.leaves(f(whole)) if _is_floating(leaf)]

    leaves = _floating(at)
    pull = lambda cotangent: jax.vjp(of_floating, leaves)[1](cotangent)[0]
    return {path for path, seen in depends(pull, jax.eval_shape(of_floating, leaves)).items() if seen}


def _rule_of(path: str, rules: Mapping[str, Rule]) -> Rule:
    names = [name for name in rules if _within(path, name)]
    if not names:
        raise ValueError(
            f"by_leaf: no rule for {path!r}, only for {sorted(rules)}; give it one, unroll sees everything"
        )
    return rules[max(names, key=len)]


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")


def _floating(tree: PyTree) -> dict[str, Array]:
    """The leaves that can have a derivative, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): jnp.asarray(leaf) for path, leaf in leaves if _is_floating(leaf)}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
