"""Tasks trained at one pace: weights that move with training, by the norms of the tasks' gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from metapt import stages
from metapt.hypergrad import implicit
from metapt.objectives import whole
from metapt.recipes.method import Method
from metapt.types import Batches, Fit, Model, Objective, PyTree, Stage, StageInfo, StageState
from metapt.updates import by_balance, progress

METHOD = Method(
    name="gradnorm",
    summary="task weights that keep gradient norms and rates of training in step (GradNorm), without a hypergradient",
    citation="Chen, Badrinarayanan, Lee, Rabinovich. GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep "
    "Multitask Networks. ICML 2018",
    slots=("objective: weighted tasks", "update: balance"),
)


class BalancedState(NamedTuple):
    """What the next step needs."""

    weights: Array  # [T]
    update: PyTree
    train: StageState


class Balanced(NamedTuple):
    """Training whose weights move (`init`, `step`), and the same at fixed ones (`fit`, from `start`)."""

    init: Callable[[Array], BalancedState]
    step: Callable[[BalancedState, Batches, Array], tuple[BalancedState, dict[str, StageInfo | Array]]]
    fit: Fit
    start: Callable[[Array], StageState]


def gradnorm(
    model: Model,
    objective: Callable[..., Objective],
    tasks: int,
    shared: Callable[[PyTree], PyTree],
    optimizer: optax.GradientTransformation,
    weight_optimizer: optax.GradientTransformation,
    alpha: float,
) -> Balanced:
    """Trains `model` on tasks whose weights, all 1 at first, move after each step on `batches.pretrain`.

    Args:
        objective: from a `Predict`, linear in the weights: `weighted_tasks` or `weighted_squares`.
        shared: from parameters to the last layer that the tasks share.
        alpha: how much harder a task that lags behind is to pull.
    """
    stage = Stage(objective(whole(model)), optimizer)
    fit, update = implicit(stage), by_balance(weight_optimizer, alpha)
    measure = progress(stage.objective, tasks, shared)
    start = lambda key: stages.start_model(stage, model, key)

    def init(key: Array) -> BalancedState:
        weights = jnp.ones(tasks)
        return BalancedState(weights, update.init(weights), start(key))

    def step(state: BalancedState, batches: Batches, key: Array):
        found = measure(state.train, batches.pretrain, key)
        train, info = fit(state.train, state.weights, batches.pretrain, key)
        weights, update_state, skipped = update.apply(found, state.update, state.weights)
        return BalancedState(weights, update_state, train), {"pretrain": info, "skipped": skipped}

    return Balanced(init, step, fit, start)
