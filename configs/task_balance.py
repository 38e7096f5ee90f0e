"""Two tasks whose targets differ in size: who is served by one network? The toy problem of GradNorm, on scikit-learn's digits.

    metapt run task_balance

Task t is to predict scale_t tanh((B + E_t) x) from an image x, with random matrices B, which the tasks share, and E_t, their
own. Plain training hears the largest task alone. Arms: equal weights (`equal`), weights that move with training (`gradnorm`),
training afresh with the mean of those over time (`static`), weights 1 / scale^2 (`oracle`). What counts is every task's loss on
test images as a share of the variance of its targets, summed over tasks: what a weight does to the unit of a loss cannot enter.

About a minute on one CPU core. Expected: the sum is 1.99 for `equal`, 0.69 for `gradnorm` (weights 1.95 and 0.05),
0.71 for `static`, 0.53 for `oracle`.
Null control, in which there is nothing to balance: --scales 1 1
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import stack

from metapt import data, models, objectives, recipes
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.experiment import Arm, Experiment, Outcome, Phase
from metapt.types import Batches, Model

METHOD = recipes.gradnorm.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent tasks, splits, networks and batches."""
    seed: int = 0
    """Of everything random."""
    scales: tuple[float, ...] = (1.0, 100.0)
    """Of the targets, one a task."""
    outputs: int = 20
    """Numbers that a task is to predict."""
    widths: tuple[int, ...] = (64, 64, 64)
    """Of the layers that the tasks share."""
    steps: int = 1000
    """Training steps."""
    batch: int = 64
    """Images in a batch."""
    lr: float = 1e-3
    """Adam's learning rate."""
    weight_lr: float = 0.025
    """Adam's learning rate for the weights."""
    alpha: float = 0.12
    """How much harder a task that lags behind is to pull."""

    def __post_init__(self):
        check_numbers(self, seed=0, alpha=0.0)


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    tasks = len(config.scales)
    trunk = models.relu(models.mlp(64, config.widths))
    network = models.with_head(trunk, models.linear(config.widths[-1], tasks * config.outputs))
    model = Model(network.init, lambda params, x: network.apply(params, x).reshape(len(x), tasks, config.outputs))
    last = f"Dense_{len(config.widths) - 1}"
    method = recipes.gradnorm.gradnorm(
        model,
        objectives.weighted_squares,
        tasks,
        lambda params: params["encoder"][last],
        optax.adam(config.lr),
        optax.adam(config.weight_lr),
        config.alpha,
    )

    def fixed(name, weights):
        context = lambda key, arrays, exports: tasks * weights(exports) / weights(exports).sum()
        export = lambda weights, state: {"encoder": state.params, "weights": weights}
        return arms.pretraining(name, method.fit, config.steps, 1, context, method.start, export)

    def step(state, batches, key):
        balanced, total = state
        balanced, info = method.step(balanced, batches, key)
        return (balanced, total + balanced.weights), info

    def export(state):
        balanced, total = state
        return {"encoder": balanced.train.params, "weights": balanced.weights, "mean_weights": total / config.steps}

    init = lambda key, arrays, exports: (method.init(key), jnp.zeros(tasks))
    shares = lambda params, examples: (
        ((model.apply(params, examples.x) - examples.y) ** 2).mean((0, 2)) / (examples.y.var(axis=0).mean(axis=1))
    )
    arrays, test = _arrays(config)
    return Experiment(
        metric="sum over tasks of the loss as a share of the targets' variance",
        higher_is_better=False,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(data.draw(key, arrays["train"], 1, config.batch), None, None),
        arms=(
            fixed("equal", lambda exports: jnp.ones(tasks)),
            Arm("gradnorm", init, (Phase(config.steps, step, 1 + tasks),), export),
            fixed("static", lambda exports: exports["gradnorm"]["mean_weights"]),
            fixed("oracle", lambda exports: 1 / jnp.asarray(config.scales) ** 2),
        ),
        monitor=lambda params, arrays, key: shares(params, arrays["monitor"]).sum(),
        evaluate=lambda params, arrays, test, key: shares(params, test).sum(),
        baseline="equal",
        summarize=lambda outcome: _figures(config, shares, test, outcome),
        plots=lambda outcome: {
            "learning_curves": plots.learning_curves(outcome.curves, "step", "sum of shares, held-out images")
        },
    )


def _arrays(config: Config):
    """By seed: images with their targets to `train` on and to `monitor`. Test apart. Pixels are standardised."""
    x = data.digits().x
    x = np.asarray((x - x.mean(0)) / (x.std(0) + 1e-6), np.float32)
    runs, tests = [], []
    for seed in range(config.seeds):
        rng = np.random.default_rng([config.seed, seed])
        common = rng.normal(0, 10, (64, config.outputs))
        own = rng.normal(0, 3.5, (len(config.scales), 64, config.outputs))
        inputs = x / np.sqrt(64 * 10**2)  # so that tanh is not saturated
        y = np.stack([s * np.tanh(inputs @ (common + e)) for s, e in zip(config.scales, own, strict=True)], axis=1)
        examples = data.Labelled(x, y.astype(np.float32))
        rows = data.split(rng, len(x), {"train": 1100, "monitor": 200, "test": 497})
        parts = {name: examples.rows(index) for name, index in rows.items()}
        tests.append(parts.pop("test"))
        runs.append(parts)
    return stack(runs), stack(tests)


def _figures(config: Config, shares, test, outcome: Outcome) -> dict[str, Any]:
    """By arm and task, means over seeds: the share of the variance that is left, and the weight at the end."""
    by_task = {name: jax.vmap(shares)(export["encoder"], test).mean(axis=0) for name, export in outcome.exports.items()}
    return {
        "share_by_task": {name: values.tolist() for name, values in by_task.items()},
        "weights": {name: export["weights"].mean(axis=0).tolist() for name, export in outcome.exports.items()},
        "ratio": float(outcome.scores["gradnorm"].mean() / outcome.scores["equal"].mean()),
    }
