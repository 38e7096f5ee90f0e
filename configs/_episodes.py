"""What the experiments on initialisations share: the arms, and how an initialisation is judged on new tasks."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, repeat

from metapt import hypergrad, models, objectives, recipes, solvers, stages
from metapt.data import Episodes, Labelled
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.recipes.method import initialization
from metapt.types import Batches, Model, Stage


@dataclass(frozen=True)
class EpisodeConfig:
    """Fields of both; each can be set on the command line."""

    seeds: int = 5
    """Independent runs: splits, initial parameters and tasks all differ."""
    seed: int = 0
    """Of everything random."""
    outer_steps: int = 500
    """Moves of the initialisation."""
    tasks: int = 8
    """Tasks that one move is averaged over."""
    shots: int = 1
    """Examples (of a class) that a task is trained on."""
    queries: int = 5
    """Further examples (of a class) that it is judged by."""
    hidden: int = 64
    """Width of both hidden layers."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of the hidden layers. `imaml` needs a smooth one."""
    task_steps: int = 5
    """K, training steps of a task."""
    task_lr: float = 0.4
    """Their learning rate (SGD)."""
    meta_lr: float = 2e-3
    """Adam's learning rate for the initialisation, and for `joint`."""
    reptile_lr: float = 0.5
    """Of the initialisation towards where the tasks end (SGD)."""
    proximal_steps: int = 16
    """Training steps of a task that is held near the initialisation."""
    proximal_lr: float = 0.1
    """Their learning rate (SGD)."""
    strength: float = 2.0
    """Of the pull to the initialisation."""
    cg_steps: int = 5
    """Of the solve with the Hessian."""
    final_steps: int = 5
    """Training steps of a new task, for every arm."""
    final_held: bool = False
    """A new task is trained as `imaml` trains its own, held near the start; otherwise by `final_steps` of `task_lr`."""
    monitor_tasks: int = 20
    """Held-out tasks for the curves."""
    test_tasks: int = 200
    """Held-out tasks for the result."""

    def __post_init__(self):
        check_numbers(self, seed=0, final_steps=0)


class Problem(NamedTuple):
    """What the two experiments differ in."""

    encoder: Model
    outputs: int  # of a task
    loss: Callable[[objectives.Predict], Any]
    score: Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, y) -> what is reported
    metric: str
    higher_is_better: bool
    episodes: Callable[[jax.Array, jax.Array, int], Episodes]  # (examples of a seed, key, tasks)
    joint_outputs: int
    joint_batch: Callable[[jax.Array, jax.Array, int], Labelled]  # (examples of a seed, key, size) -> of all tasks
    joint_keeps: tuple[str, ...]  # what of the jointly trained network a new task begins with


def encoder(config: EpisodeConfig, inputs: int) -> Model:
    """Two hidden layers."""
    bend = getattr(jax.nn, config.activation)
    plain = models.mlp(inputs, (config.hidden, config.hidden), bend)
    return Model(plain.init, lambda params, x: bend(plain.apply(params, x)))


def experiment(config: EpisodeConfig, problem: Problem, examples: Mapping[str, np.ndarray]) -> Experiment:
    """The arms of the comparison, on `examples` to `train`, `monitor` and `test` with `[seeds, ...]`."""
    model = models.with_head(problem.encoder, models.linear(config.hidden, problem.outputs))
    train_task, adam = optax.sgd(config.task_lr), optax.adam(config.meta_lr)
    cost, held = Cost(0, config.task_steps), Cost(0, config.proximal_steps)
    compose = lambda rule: initialization(model, problem.loss, train_task, adam, rule).algorithm

    def learned(name, made, price, steps=config.task_steps, whole=False, compose=None):
        def draw(arrays, key):
            support, query = problem.episodes(arrays["train"], key, config.tasks)
            if whole:  # no query: all examples are trained on
                support = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), support, query)
            return Batches(None, repeat(support, steps), query)

        schedule, start = (0, config.outer_steps, 0), lambda key, arrays: made.start(key)
        export = lambda state: {"encoder": state.phi}
        prices = 0, config.tasks * price
        return arms.learning(name, made.algorithm, schedule, prices, start, export, compose=compose, draw=draw)

    how: dict[str, Any] = {"loss": problem.loss}
    near = optax.sgd(config.proximal_lr)
    imaml = functools.partial(recipes.imaml.imaml, model, near, adam, config.strength, **how)
    solve, solved = solvers.cg(config.cg_steps), held.forward + 2 * (config.cg_steps + 1)
    gauss_newton = problem.loss(hypergrad.linearized(objectives.whole(model)))
    identity = solvers.neumann(0, step=1 / config.strength)  # as if the Hessian were zero
    maml = recipes.maml.maml(model, train_task, adam, **how)
    fomaml = recipes.fomaml.fomaml(model, train_task, adam, **how)
    reptile = recipes.reptile.reptile(model, train_task, optax.sgd(config.reptile_lr), **how)
    compared = (
        _joint("scratch", config, problem, model, outer_steps=0),
        _joint("joint", config, problem, model, config.outer_steps),
        learned("maml", maml, cost.unrolled, compose=compose),
        learned("fomaml", fomaml, cost.forward),
        learned("reptile", reptile, config.task_steps, whole=True),
        learned("imaml", imaml(solve=solve), solved, config.proximal_steps),
        learned("imaml_gauss_newton", imaml(solve=solve, curvature=gauss_newton), solved, config.proximal_steps),
        learned("imaml_identity", imaml(solve=identity), held.forward, config.proximal_steps),
    )

    stage = Stage(problem.loss(objectives.whole(model)), near if config.final_held else train_task)
    train = hypergrad.proximal(stage, config.strength) if config.final_held else hypergrad.detached(stage)
    final_steps = config.proximal_steps if config.final_held else config.final_steps

    def judge(params, episodes):
        def one(support, query):
            tuned = params
            if final_steps:
                batches = repeat(support, final_steps)
                tuned = train(stages.start(stage, params), None, batches, jax.random.key(0))[0].params
            return problem.score(model.apply(tuned, query.x), query.y)

        return jax.vmap(one)(*episodes).mean()

    def held_out(part, tasks, key):  # the same tasks for all arms
        draw = jax.vmap(lambda examples, key: problem.episodes(examples, key, tasks))
        return jax.jit(draw)(examples[part], jax.random.split(key, config.seeds))

    monitor_key, test_key = jax.random.split(jax.random.key(config.seed))
    return Experiment(
        metric=problem.metric,
        higher_is_better=problem.higher_is_better,
        data={
            "train": jnp.asarray(examples["train"]),
            "monitor": held_out("monitor", config.monitor_tasks, monitor_key),
        },
        test=held_out("test", config.test_tasks, test_key),
        draw=lambda arrays, key: Batches(None, None, None),
        arms=compared,
        monitor=lambda params, arrays, key: judge(params, arrays["monitor"]),
        evaluate=lambda params, arrays, test, key: judge(params, test),
        baseline="scratch",
        summarize=lambda outcome: {"gradient_evaluations": arms.gradient_evaluations(compared)},
        plots=lambda outcome: _plots(problem, outcome),
    )


def _joint(name: str, config: EpisodeConfig, problem: Problem, model: Model, outer_steps: int):
    """One network for all training tasks at once, on as many examples as FOMAML sees; not trained, it is `scratch`."""
    together = models.with_head(problem.encoder, models.linear(config.hidden, problem.joint_outputs))
    stage = Stage(problem.loss(objectives.whole(together)), optax.adam(config.meta_lr))
    steps, outputs = config.task_steps + 1, problem.outputs
    size = config.tasks * config.queries * (outputs if problem.joint_outputs > outputs else 1)

    def draw(arrays, key):
        one = lambda key: problem.joint_batch(arrays["train"], key, size)
        return Batches(jax.vmap(one)(jax.random.split(key, steps)), None, None)

    start = lambda key: stages.start_model(stage, together, key)
    fresh = lambda key, arrays, exports: model.init(key)
    kept = problem.joint_keeps if outer_steps else ()
    export = lambda fresh, state: {"encoder": fresh | {part: state.params[part] for part in kept}}
    return arms.pretraining(
        name, hypergrad.detached(stage), outer_steps, config.tasks * steps, fresh, start, export, draw
    )


def _plots(problem: Problem, outcome: Outcome):
    no_pretraining = "pre-training:\nstationarity gap"
    panels = {label: names for label, names in REPORT.items() if label != no_pretraining}
    return {
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", problem.metric),
        "hypergradient": plots.reports(outcome.infos["imaml"], panels),
    }
