"""Which features make five new characters tell apart, from one drawing each, by a linear head? Omniglot, 5-way 1-shot.

    metapt run omniglot_heads --data PATH

PATH is `omniglot28.npz` or its folder. Every arm ends with an encoder (two layers of 64 units, features of norm 4), on which the
head of a new task is trained from zero for the same few steps. The encoder is random (`untrained`); trained to tell all training
characters for as many gradient evaluations as learning costs (`joint`); learned through the training of heads (`learned`), with
those heads taken for constants (`constant`, and for as many gradient evaluations `constant_longer`), or with heads trained on
the query itself (`no_split`).
Null control, in which no gain can be: `meaningless`, which is `learned` on drawings dealt out among the characters.

Three minutes on one CPU core. Expected: `learned` 0.62, `constant` 0.58, `joint` and `no_split` 0.49, `untrained` 0.34,
`meaningless` no better.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, repeat
from omniglot import characters

from metapt import data, hypergrad, models, objectives, recipes, stages
from metapt.data import Labelled
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.types import Batches, Stage

METHOD = recipes.hyper_representation.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent runs: splits, initial parameters and tasks all differ."""
    seed: int = 0
    """Of everything random."""
    data: str = ""
    """The file, or the folder that holds it; by default what METAPT_DATA names."""
    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Drawings of a class that a task is trained on."""
    queries: int = 5
    """Further drawings of a class that it is judged by."""
    tasks: int = 8
    """Tasks that one move is averaged over."""
    outer_steps: int = 200
    """Moves of the encoder."""
    meta_lr: float = 2e-3
    """Adam's learning rate for it, and for `joint`."""
    steps: int = 10
    """T, training steps of a head, in learning and for the result."""
    lr: float = 0.5
    """Their learning rate (gradient descent)."""
    hidden: int = 64
    """Width of both layers."""
    size: float = 4.0
    """Norm of the features."""
    monitor_characters: int = 15
    """For the curves."""
    test_characters: int = 35
    """For the result; all others are for learning."""
    monitor_tasks: int = 20
    """Held-out tasks for the curves."""
    test_tasks: int = 300
    """Held-out tasks for the result."""

    def __post_init__(self):
        check_numbers(self, seed=0)


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    plain = models.relu(models.mlp(196, (config.hidden, config.hidden)))
    encoder = models.normalised(plain, config.size)
    head = models.linear(config.hidden, config.ways, zero=True)
    compose = lambda rule: recipes.hyper_representation.hyper_representation(
        encoder, head, optax.sgd(config.lr), optax.adam(config.meta_lr), rule
    )
    method, cost = compose(hypergrad.unroll), Cost(0, config.steps)

    def episodes(examples, key, tasks):
        return data.draw_episodes(key, examples, tasks, config.ways, config.shots, config.queries)

    def learned(name, rule, price, steps=config.outer_steps, part="train", split=True, **how):
        def draw(arrays, key):
            support, query = episodes(arrays[part], key, config.tasks)
            return Batches(None, repeat(support if split else query, config.steps), query)

        made = compose(rule)
        start, export = lambda key, arrays: made.start(key), lambda state: {"encoder": state.phi}
        prices = 0, config.tasks * price
        return arms.learning(name, made.algorithm, (0, steps, 0), prices, start, export, draw=draw, **how)

    examples = characters(config)
    count = examples["train"].shape[1]

    def joint(name, outer_steps):
        together = models.with_head(encoder, models.linear(config.hidden, count))
        stage = Stage(objectives.cross_entropy(objectives.whole(together)), optax.adam(config.meta_lr))

        def draw(arrays, key):
            x = arrays["train"]
            row = jax.random.randint(key, (cost.unrolled, config.tasks * config.ways), 0, count * x.shape[1])
            return Batches(Labelled(x.reshape(-1, x.shape[-1])[row], row // x.shape[1]), None, None)

        # The same encoder to start from as in the other arms.
        start = lambda key: stages.start(stage, {**together.init(key), "encoder": method.start(key).phi})
        export = lambda context, state: {"encoder": state.params["encoder"]}
        nothing = lambda key, arrays, exports: jnp.zeros(())
        price = config.tasks * cost.unrolled
        return arms.pretraining(name, hypergrad.detached(stage), outer_steps, price, nothing, start, export, draw)

    compared = (
        joint("untrained", 0),
        joint("joint", config.outer_steps),
        learned("constant", hypergrad.detached, cost.forward),
        learned(
            "constant_longer", hypergrad.detached, cost.forward, config.outer_steps * cost.unrolled // cost.forward
        ),
        learned("no_split", hypergrad.unroll, cost.unrolled, split=False),
        learned("meaningless", hypergrad.unroll, cost.unrolled, part="meaningless"),
        learned("learned", hypergrad.unroll, cost.unrolled, compose=lambda rule: compose(rule).algorithm),
    )

    def judge(params, episodes):
        state = stages.start_model(method.inner, head, jax.random.key(0))
        heads, _ = method.fit(state, params, repeat(episodes.support, config.steps), jax.random.key(0))
        score = lambda one, query: objectives.accuracy(head.apply(one, encoder.apply(params, query.x)), query.y)
        return jax.vmap(score)(heads.params, episodes.query).mean()

    def held_out(part, tasks, key):  # the same tasks for all arms
        draw = jax.vmap(lambda examples, key: episodes(examples, key, tasks))
        return jax.jit(draw)(examples[part], jax.random.split(key, config.seeds))

    def dealt_out(seed, x):
        rng = np.random.default_rng([config.seed, seed, 1])
        return rng.permutation(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    monitor_key, test_key = jax.random.split(jax.random.key(config.seed))
    return Experiment(
        metric=f"accuracy on new characters, {config.ways}-way {config.shots}-shot",
        higher_is_better=True,
        data={
            "train": jnp.asarray(examples["train"]),
            "meaningless": jnp.stack([dealt_out(seed, x) for seed, x in enumerate(examples["train"])]),
            "monitor": held_out("monitor", config.monitor_tasks, monitor_key),
        },
        test=held_out("test", config.test_tasks, test_key),
        draw=lambda arrays, key: Batches(None, None, None),
        arms=compared,
        monitor=lambda params, arrays, key: judge(params, arrays["monitor"]),
        evaluate=lambda params, arrays, test, key: judge(params, test),
        baseline="untrained",
        summarize=lambda outcome: {"gradient_evaluations": arms.gradient_evaluations(compared)},
        plots=lambda outcome: _plots(outcome),
    )


def _plots(outcome: Outcome):
    panels = {label: REPORT[label] for label in ("validation loss", "norm of the\nhypergradient")}
    return {
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out characters"),
        "hypergradient": plots.reports(outcome.infos["learned"], panels),
    }
