"""The kinds of arms that experiments share, and what they cost."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from metapt.algorithm import Algorithm, AlgorithmState
from metapt.io.experiment import Arm, Draw, Phase, Step
from metapt.types import Batches, Fit, PyTree, Rule, StageState
from metapt.updates import Suggest

Export = dict[str, PyTree]
Start = Callable[[Array, PyTree], AlgorithmState]  # (key, data) -> state; one key gives the same network in every arm
Finish = Callable[[AlgorithmState], Export]


class Weigh(NamedTuple):
    """A context that depends on the network: found once, `after` so many outer steps, for `cost` gradient evaluations."""

    after: int
    context: Callable[[StageState, Batches, Array], PyTree]
    cost: int


def pretraining(
    name: str,
    fit: Fit,
    steps: int,
    cost: int,
    context: Callable[[Array, PyTree, Mapping[str, Export]], PyTree],
    start: Callable[[Array], StageState],
    export: Callable[[PyTree, StageState], Export],
    draw: Draw | None = None,
    weigh: Weigh | None = None,
) -> Arm:
    """Plain pre-training at a fixed context: `context(key, data, exports of earlier arms)`; `draw` if on batches of its own.

    With `weigh`, the context is what that gives after some steps.
    """
    init = lambda key, arrays, exports: (context(key, arrays, exports), start(key))
    phases = (Phase(steps, _plain(fit), cost, draw),)
    if weigh:
        measure = lambda state, batches, key: ((weigh.context(state[1], batches, key), state[1]), {})
        first, rest = phases[0]._replace(steps=weigh.after), phases[0]._replace(steps=steps - weigh.after)
        phases = first, Phase(1, measure, weigh.cost), rest
    return Arm(name, init, phases, lambda state: export(*state))


@functools.cache  # the same function for all arms of one fit, so that they share one compiled program
def _plain(fit: Fit) -> Step:
    def step(state, batches, key):
        context, pretrain = state
        pretrain, info = fit(pretrain, context, batches.pretrain, key)
        return (context, pretrain), {"pretrain": info}

    return step


def learning(
    name: str,
    algorithm: Algorithm,
    steps: tuple[int, int, int],
    costs: tuple[int, int],
    start: Start,
    export: Finish,
    watch: Callable[[AlgorithmState, Batches], dict[str, PyTree]] = lambda state, batches: {},
    compose: Callable[[Rule], Algorithm] | None = None,
    draw: Draw | None = None,
) -> Arm:
    """Algorithm 1, online: `steps` before phi moves, while it moves, and after; `costs` of one at rest, of one that moves phi.

    The figures of `watch` are logged beside the algorithm's own. `compose` gives the algorithm by another rule: `metapt doctor`.
    `draw` if on batches of its own.
    """
    before, moving, after = steps

    def watched(step):
        def run(state, batches, key):
            state, info = step(state, batches, key)
            return state, info._asdict() | watch(state, batches)

        return run

    rest, move = watched(algorithm.warm_up), watched(algorithm.step)
    phases = (
        Phase(before, rest, costs[0], draw),
        Phase(moving, move, costs[1], draw),
        Phase(after, rest, costs[0], draw),
    )
    return Arm(name, lambda key, arrays, exports: start(key, arrays), phases, export, compose)


def restarting(
    name: str,
    algorithm: Algorithm,
    moves: int,
    steps: int,
    costs: tuple[int, int],
    draw: Draw,
    start: Start,
    export: Finish,
) -> Arm:
    """Each move of phi from a whole pre-training of its own, `draw` giving its batches; then `steps` afresh with the last phi.

    With `unroll` as the rule of pre-training, the hypergradient is the exact one.
    """

    def move(state, batches, key):
        current, fresh = state
        current, info = algorithm.step(current, batches, key)
        return (current._replace(pretrain=fresh.pretrain), fresh), info

    def train(state, batches, key):
        current, info = algorithm.warm_up(state[0], batches, key)
        return (current, state[1]), info

    init = lambda key, arrays, exports: (start(key, arrays),) * 2
    phases = (Phase(moves, move, costs[0], draw), Phase(steps, train, costs[1]))
    return Arm(name, init, phases, lambda state: export(state[0]))


class _Search(NamedTuple):
    current: AlgorithmState
    fresh: AlgorithmState
    loss: Array  # of the trial that is running, at its last outer step
    tried: Array  # [trials, D]
    losses: Array  # [trials]
    done: Array


def searching(
    name: str,
    algorithm: Algorithm,
    suggest: Suggest,
    trials: int,
    trial_steps: int,
    steps: int,
    cost: int,
    start: Start,
    export: Finish,
) -> Arm:
    """`trials` pre-trainings of `trial_steps` outer steps each, judged by the validation loss after fine-tuning; then `steps`
    afresh with the best phi (a scalar or a vector).
    """

    def init(key, arrays, exports):
        state = start(key, arrays)
        tried, losses = jnp.zeros((trials, jnp.size(state.phi))), jnp.full(trials, jnp.inf)
        search = _Search(state, state, jnp.array(jnp.inf), tried, losses, jnp.array(0))
        return go_on(search, suggest(key, tried, losses, search.done))

    def go_on(search: _Search, point: Array) -> _Search:
        phi = point.reshape(jnp.shape(search.fresh.phi))
        return search._replace(current=search.fresh._replace(phi=phi), tried=search.tried.at[search.done].set(point))

    def train(search, batches, key):
        current, info = algorithm.warm_up(search.current, batches, key)
        return search._replace(current=current, loss=info.validation_loss), info

    def judge(search, batches, key):
        losses = search.losses.at[search.done].set(search.loss)
        search = search._replace(losses=losses, done=search.done + 1)
        best = search.tried[jnp.nanargmin(losses)]
        point = jnp.where(search.done < trials, suggest(key, search.tried, losses, search.done), best)
        return go_on(search, point), {}

    trial = (Phase(trial_steps, train, cost), Phase(1, judge))
    phases = trial * trials + (Phase(steps, train, cost),)
    return Arm(name, init, phases, lambda search: export(search.current))


def gradient_evaluations(arms: tuple[Arm, ...]) -> dict[str, int]:
    """What every arm costs in all, by the rules of `io.cost`."""
    return {arm.name: sum(phase.steps * phase.cost for phase in arm.phases) for arm in arms}
