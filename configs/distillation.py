"""A training set of ten images, one a class, learned pixel by pixel: what is it worth? On scikit-learn's digits.

    metapt run distillation

Softmax regression with a penalty is trained on ten images, from zero. They move by implicit differentiation of the loss on 600
labelled ones, and training starts afresh after every move. Arms, all trained in the same way at the end: real images at random
(`real`), the best by the loss on the 600 of as many random choices as learning costs (`best_real`), the classes' means (`means`),
and learned from noise by plain gradient descent, with `--terms` terms of the Neumann series (`learned`), with none beyond the
first (`learned_0`), and so at `terms + 1` times the rate, because the terms lengthen the gradient (`learned_0_faster`).

Half a minute on one CPU core. Expected at level 0: `learned` and `learned_0_faster` 0.031 above `means`, which is 0.895, and
`learned_0` 0.034 below it.
Null control, in which no gain can be: level 1 of `wrong`, at which the 600 labels say nothing.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, by_level, redrawn, stack

from metapt import data, hypergrad, models, objectives, recipes, solvers, stages
from metapt.data import Labelled
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.types import Batches

METHOD = recipes.ift_hyperparameters.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent splits at each level of wrong labels."""
    seed: int = 0
    """Of everything random."""
    wrong: tuple[float, ...] = (0.0, 1.0)
    """Shares of the labels that are drawn anew, from all classes."""
    labelled: int = 600
    """Images to distil, a multiple of 10."""
    monitor: int = 300
    """Labelled images for the curves."""
    steps: int = 300
    """Training steps from zero, after every move and for every arm at the end."""
    lr: float = 0.3
    """Their learning rate (gradient descent), and the step of the Neumann series."""
    l2: float = 0.01
    """Penalty on the parameters in training."""
    outer_steps: int = 300
    """Moves of the images."""
    meta_lr: float = 1.0
    """Learning rate for the pixels (gradient descent)."""
    terms: int = 5
    """K, of the Neumann series beyond the first, in `learned`."""

    def __post_init__(self):
        check_numbers(self, seed=0, wrong=0.0, terms=0)
        if not self.wrong or max(self.wrong) > 1:
            raise ValueError(f"wrong={self.wrong} must name levels from 0 to 1")


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    model, y = models.linear(64, 10, zero=True), np.arange(10)
    learned = recipes.ift_hyperparameters.distilled_data(model, (64,), y, config.l2)

    def compose(terms=config.terms, meta_lr=config.meta_lr, rule=None):
        return recipes.ift_hyperparameters.ift_hyperparameters(
            model,
            learned,
            optax.sgd(config.lr),
            optax.sgd(meta_lr),
            rule or (lambda stage: hypergrad.implicit(stage, solvers.neumann(terms, step=config.lr))),
            restart=True,
        )

    method, cost = compose(), Cost(config.steps, 0)
    price = lambda terms: cost.implicit(terms, power=0)
    fit, loss = stages.trainer(method.inner), objectives.cross_entropy(objectives.whole(model))

    def refit(x, key):
        keys = jax.random.split(key, config.steps)
        start = stages.start_model(method.inner, model, key)
        return fit(start, (x, y), jnp.zeros(config.steps), keys)[0].params

    def learning(name, terms, meta_lr=config.meta_lr, **how):
        made, prices = compose(terms, meta_lr), (cost.forward, price(terms))
        start, export = lambda key, arrays: made.start(key), lambda state: {"encoder": state.phi}
        return arms.learning(name, made.algorithm, (0, config.outer_steps, 0), prices, start, export, **how)

    def fixed(name, images):
        context = lambda key, arrays, exports: images(arrays["labelled"], key)
        first = lambda key: stages.start_model(method.inner, model, key)
        return arms.pretraining(name, method.fit, 0, 0, context, first, lambda x, state: {"encoder": x})

    def of_class(labelled, score):
        """The image of every class with the largest score."""
        return labelled.x[jnp.where(labelled.y == y[:, None], score, -jnp.inf).argmax(axis=1)]

    def real(labelled, key):
        return of_class(labelled, jax.random.uniform(key, (10, config.labelled)))

    def best_real(labelled, key):
        def tried(key):
            x = real(labelled, key)
            return loss(refit(x, key), None, None, labelled, key)[0], x

        losses, images = jax.lax.map(tried, jax.random.split(key, choices))
        return images[losses.argmin()]

    def means(labelled, key):
        share = jax.nn.one_hot(labelled.y, 10).T
        return share @ labelled.x / jnp.maximum(share.sum(axis=1, keepdims=True), 1)

    choices = max(1, config.outer_steps * price(config.terms) // config.steps)
    compared = (
        fixed("real", real),
        fixed("best_real", best_real),
        fixed("means", means),
        learning("learned_0", 0),
        learning("learned_0_faster", 0, (config.terms + 1) * config.meta_lr),
        learning("learned", config.terms, compose=lambda rule: compose(rule=rule).algorithm),
    )
    arrays, test = _arrays(config)
    judge = lambda x, examples, key: objectives.accuracy(model.apply(refit(x, key), examples.x), examples.y)
    return Experiment(
        metric="test accuracy after training on ten images",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(None, jnp.zeros(config.steps), arrays["labelled"]),
        arms=compared,
        monitor=lambda x, arrays, key: judge(x, arrays["monitor"], key),
        evaluate=lambda x, arrays, test, key: judge(x, test, key),
        baseline="means",
        summarize=lambda outcome: _figures(config, compared, outcome),
        plots=lambda outcome: {
            "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
            "hypergradient": plots.reports(outcome.infos["learned"], REPORT),
        },
    )


def _arrays(config: Config):
    """By level of wrong labels, then by seed: images to distil, and for the curves; splits stay the same. Test apart."""
    images, runs, tests = data.digits(), [], []
    y = np.asarray(images.y)
    for level in config.wrong:
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            labelled = data.balanced(rng, y, config.labelled)
            rest = rng.permutation(np.setdiff1d(np.arange(len(y)), labelled))
            if len(rest) <= config.monitor:
                raise ValueError(f"monitor={config.monitor} leaves no images for the test")
            drawn = redrawn(rng, y[labelled], level)
            known = Labelled(images.x[labelled], drawn.astype(np.int32))
            runs.append({"labelled": known, "monitor": images.rows(rest[: config.monitor])})
            tests.append(images.rows(rest[config.monitor :]))
    return stack(runs), stack(tests)


def _figures(config: Config, compared, outcome: Outcome) -> dict[str, Any]:
    """By level: accuracies against `means`."""
    by_seed = lambda values: values.reshape(len(config.wrong), config.seeds)
    return {
        "by_wrong": by_level({name: by_seed(score) for name, score in outcome.scores.items()}, config.wrong, "means"),
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
