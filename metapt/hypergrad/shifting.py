"""A start that moves at every step of the training that begins there, and takes the training along."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.stages import loop as loops, step, step_keys
from metapt.types import Loop, PyTree, Stage, StageInfo, StageState, Update


class Trajectories(NamedTuple):
    """What the next round needs."""

    phi: PyTree  # the start, shaped like the parameters of one task
    update: PyTree  # what `Update` remembers
    tasks: StageState  # [T, ...]


class ShiftingInfo(NamedTuple):
    """What a human wants to know of one round."""

    tasks: StageInfo  # [K, T]
    hypergradient_norm: Array  # [K]
    skipped: Array  # [K] True: the hypergradient was not finite and moved nothing


class TrajectoryShifting(NamedTuple):
    """Two pure functions; `metapt.run` takes the step as it takes an algorithm's."""

    init: Callable[[PyTree, StageState], Trajectories]  # (phi, tasks [T, ...]) -> state
    step: Callable[[Trajectories, PyTree, Array], tuple[Trajectories, ShiftingInfo]]  # batches [K, T, ...]


def trajectory_shifting(
    stage: Stage, update: Update, shared: PyTree = True, context: PyTree = None, loop: Loop = loops.auto
) -> TrajectoryShifting:
    """A shared start of T tasks, learned during K steps of all of them: it moves K times a round, not once.

        theta_i <- a step of task i,   phi' <- update(phi, phi - mean_i theta_i),   theta_i <- theta_i + (phi' - phi)

    The second is Reptile's direction, after k steps instead of all K. The shift stands for training again from the new start,
    because the end U_k of k steps moves as the start does, to first order: U_k(phi + D) = U_k(phi) + D + O(a h k |D|) for
    steps of size a and curvature h. Keep a h K^2 times the size of one move small. A round begins with all tasks at phi;
    moments and what is not shared stay with their task.

    Args:
        stage: how one task is trained.
        update: how phi moves, for example `by_gradient(optax.sgd(0.01))`.
        shared: which parts are learned: booleans in a prefix of the parameters, for example `{"encoder": True, "head": False}`.
        context: what all tasks see.

    Source: Shin, Lee, Gong, Hwang 2021, "Large-Scale Meta-Learning with Continual Trajectory Shifting" (ICML)

    Example:
        >>> from metapt import updates
        >>> stage = Stage(lambda params, context, extra, batch, key: (0.5 * (params - batch) ** 2, extra), optax.sgd(0.5))
        >>> shifting = trajectory_shifting(stage, updates.by_gradient(optax.sgd(0.1)))
        >>> begin = StageState(jnp.zeros(2), stage.optimizer.init(jnp.zeros(2)), None)
        >>> state = shifting.init(jnp.array(0.0), begin)
        >>> state, info = shifting.step(state, jnp.array([[1.0, 3.0]]), jax.random.key(0))
        >>> print(state.phi, state.tasks.params)  # the tasks were at 0.5 and 1.5
        0.1 [0.6 1.6]
    """

    def where_shared(f: Callable, otherwise: Callable, *trees: PyTree) -> PyTree:
        on = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), shared, trees[0])
        return jax.tree.map(lambda flag, *leaves: (f if flag else otherwise)(*leaves), on, *trees)

    def init(phi: PyTree, tasks: StageState) -> Trajectories:
        return Trajectories(phi, update.init(phi), tasks)

    def one_step(carry, inputs):
        phi, memory, tasks = carry
        batch, key = inputs
        keys = jax.random.split(key, loops.length(batch))
        tasks, info = jax.vmap(lambda task, *inputs: step(stage, context, task, inputs))(tasks, batch, keys)
        apart = where_shared(lambda p, thetas: p - thetas.mean(axis=0), lambda p, _: 0 * p, phi, tasks.params)
        moved, memory, skipped = update.apply(apart, memory, phi)
        moved = where_shared(lambda new, _: new, lambda _, old: old, moved, phi)
        params = jax.tree.map(lambda thetas, new, old: thetas + (new - old), tasks.params, moved, phi)
        return (moved, memory, tasks._replace(params=params)), ShiftingInfo(info, optax.tree.norm(apart), skipped)

    def round_(state: Trajectories, batches: PyTree, key: Array) -> tuple[Trajectories, ShiftingInfo]:
        phi, memory, tasks = state
        begin = where_shared(
            lambda p, thetas: jnp.broadcast_to(p, thetas.shape), lambda _, thetas: thetas, phi, tasks.params
        )
        carry = phi, memory, tasks._replace(params=begin)
        carry, info = loop(one_step, carry, (batches, step_keys(key, batches)))
        return Trajectories(*carry), info

    return TrajectoryShifting(init, round_)
