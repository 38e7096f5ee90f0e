"""Checks the hypergradient of a config's learned arm where it would first be used: after the warm-up, for one seed."""

import math
from typing import Any

import jax

from metapt.doctor import HypergradientCheck, check_hypergradient
from metapt.io.errors import UserError
from metapt.io.experiment import Experiment


def check_experiment(experiment: Experiment, seed: int) -> HypergradientCheck:
    """The check of the first arm that can be composed by any rule, on the batches and keys of the runner's first seed.

    The warm-up is that of a run. The check is in float64, for the sake of the finite differences, if the arm's code can
    do with that.
    """
    arm, compose = next(((arm, arm.compose) for arm in experiment.arms if arm.compose), (None, None))
    if arm is None or compose is None:
        raise UserError("doctor: this config has no arm with `compose`, the algorithm by any rule (io.arms.learning)")
    seeds = jax.tree.leaves(experiment.data)[0].shape[0]
    key, data = jax.random.split(jax.random.key(seed), seeds)[0], jax.tree.map(lambda x: x[0], experiment.data)
    warm_up = arm.phases[0]

    @jax.jit
    def inputs(data, number):
        draw_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        return (warm_up.draw or experiment.draw)(data, draw_key), step_key

    step, state = jax.jit(warm_up.step), jax.jit(arm.init)(key, data, {})
    for number in range(warm_up.steps):
        state, _ = step(state, *inputs(data, number))
    batches, step_key = inputs(data, warm_up.steps)
    before = jax.config.read("jax_enable_x64")
    # In every thread, since a model may call back into Python from one of XLA's.
    jax.config.update("jax_enable_x64", True)
    try:
        return check_hypergradient(compose, state, batches, step_key)
    except ValueError as error:
        raise UserError(f"doctor: {error}".partition("\n")[0]) from error
    finally:
        jax.config.update("jax_enable_x64", before)


def as_json(check: HypergradientCheck) -> list[dict[str, Any]]:
    """The rows for programs; what is not a number is None."""
    named = ("rule", "relative_error", "cosine", "seconds", "peak_mb", "advice")
    known = lambda value: None if isinstance(value, float) and not math.isfinite(value) else value
    return [{name: known(getattr(row, name)) for name in named} for row in check.rows]
