"""One weight decay for every parameter: what are 650 hyperparameters worth where there are 50 labels to train on? On digits.

    metapt run weight_decay

Softmax regression is trained on 50 images by gradient descent; further labelled images move the penalties by implicit
differentiation, while training goes on. Arms: no penalty (`none`), as many steps without one as learning costs (`longer`),
one penalty for all parameters (`shared`), one each, by 20 terms of the Neumann series (`decay`) and by none beyond
the first (`decay_0`), training afresh with the penalties that `decay` ended with (`replay`), with those dealt out at random
(`shuffled`), and no penalty but training on all labels (`all_labels`), which is what to do with them.

About a minute on one CPU core. Expected at level 0: `shared` as `none`, `decay` 0.077 above and `decay_0` 0.061; `all_labels`
0.099 above.
Null control, in which no gain can be: level 1 of `wrong`, at which the validation labels say nothing.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, by_level, redrawn, repeat, stack

from metapt import data, hypergrad, models, objectives, recipes, solvers, stages
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
    """Shares of the validation labels that are drawn anew, from all classes."""
    train: int = 50
    """Images to train on, a multiple of 10."""
    validation: int = 600
    """Labelled images that the penalties are learned from, a multiple of 10."""
    monitor: int = 300
    """Labelled images for the curves."""
    steps: int = 20
    """P, training steps of an outer step, on all images each."""
    lr: float = 0.3
    """Their learning rate (gradient descent)."""
    outer_steps: int = 300
    """Moves of the penalties."""
    meta_lr: float = 0.05
    """RMSprop's learning rate for their logarithms."""
    terms: int = 20
    """K, of the Neumann series beyond the first, in `decay` and `shared`."""
    start: float = 0.02
    """Of the penalties; `none` has none."""
    most: float = 1.0
    """Bound of the penalties."""

    def __post_init__(self):
        check_numbers(self, seed=0, wrong=0.0, terms=0)
        if not self.wrong or max(self.wrong) > 1:
            raise ValueError(f"wrong={self.wrong} must name levels from 0 to 1")


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    model = models.linear(64, 10, zero=True)
    one_each, shared = (
        recipes.ift_hyperparameters.weight_decay(model, config.start, config.most, shared=shared)
        for shared in (False, True)
    )

    def compose(terms=config.terms, learned=one_each, rule=None):
        return recipes.ift_hyperparameters.ift_hyperparameters(
            model,
            learned,
            optax.sgd(config.lr),
            optax.rmsprop(config.meta_lr),
            rule or (lambda stage: hypergrad.implicit(stage, solvers.neumann(terms))),
        )

    method, cost = compose(), Cost(config.steps, 0)

    def learning(name, terms, learned=one_each, **how):
        made = compose(terms, learned)
        prices = cost.forward, cost.implicit(terms)
        export = lambda state: {"encoder": state.pretrain.params, "penalty": learned[1].constrain(state.phi)}
        return arms.learning(
            name, made.algorithm, (0, config.outer_steps, 0), prices, lambda key, arrays: made.start(key), export, **how
        )

    def fixed(name, penalty, steps=config.outer_steps, part="train"):
        context = lambda key, arrays, exports: penalty(exports, key)
        first = lambda key: stages.start_model(method.inner, model, key)
        export = lambda context, state: {"encoder": state.params}
        draw = lambda arrays, key: Batches(repeat(arrays[part], config.steps), None, None)
        return arms.pretraining(name, method.fit, steps, config.steps, context, first, export, draw)

    def dealt_out(exports, key):
        one = lambda c, key: jax.random.permutation(key, c.reshape(-1)).reshape(c.shape)
        return {name: one(jnp.asarray(c), key) for name, c in exports["decay"]["penalty"].items()}

    free = lambda exports, key: jax.tree.map(jnp.zeros_like, model.init(key))
    budget = config.outer_steps * cost.implicit(config.terms) // config.steps
    compared = (
        fixed("none", free),
        fixed("longer", free, budget),
        learning("shared", config.terms, shared),
        learning("decay_0", 0),
        learning("decay", config.terms, compose=lambda rule: compose(rule=rule).algorithm),
        fixed("replay", lambda exports, key: exports["decay"]["penalty"]),
        fixed("shuffled", dealt_out),
        fixed("all_labels", free, part="all"),
    )
    arrays, test = _arrays(config)
    judge = lambda params, examples: objectives.accuracy(model.apply(params, examples.x), examples.y)
    return Experiment(
        metric="test accuracy",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(repeat(arrays["train"], config.steps), None, arrays["validation"]),
        arms=compared,
        monitor=lambda params, arrays, key: judge(params, arrays["monitor"]),
        evaluate=lambda params, arrays, test, key: judge(params, test),
        baseline="none",
        summarize=lambda outcome: _figures(config, compared, outcome),
        plots=lambda outcome: {
            "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
            "hypergradient": plots.reports(outcome.infos["decay"], REPORT),
        },
    )


def _arrays(config: Config):
    """By level of wrong validation labels, then by seed; splits are the same at every level. Test apart."""
    images, runs, tests = data.digits(), [], []
    y = np.asarray(images.y)
    for level in config.wrong:
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            labelled = data.balanced(rng, y, config.train + config.validation)
            rest = rng.permutation(np.setdiff1d(np.arange(len(y)), labelled))
            if len(rest) <= config.monitor:
                raise ValueError(f"monitor={config.monitor} leaves no images for the test")
            train = labelled[data.balanced(rng, y[labelled], config.train)]
            validation = np.setdiff1d(labelled, train)
            drawn = redrawn(rng, y[validation], level)
            labels = np.concatenate([y[train], drawn]).astype(np.int32)
            parts = {"train": images.rows(train), "monitor": images.rows(rest[: config.monitor])}
            parts["validation"] = data.Labelled(images.x[validation], labels[config.train :])
            parts["all"] = data.Labelled(np.concatenate([images.x[train], images.x[validation]]), labels)
            runs.append(parts)
            tests.append(images.rows(rest[config.monitor :]))
    return stack(runs), stack(tests)


def _figures(config: Config, compared, outcome: Outcome) -> dict[str, Any]:
    """By level: accuracies against `none`, and the last validation loss of every arm that sees it, by seed."""
    by_seed = lambda values: np.asarray(values).reshape(len(config.wrong), config.seeds)
    last = {
        name: by_seed(infos["validation_loss"][-1])
        for name, infos in outcome.infos.items()
        if "validation_loss" in infos
    }
    return {
        "by_wrong": by_level({name: by_seed(score) for name, score in outcome.scores.items()}, config.wrong, "none"),
        "validation_loss": {
            str(level): {name: loss[i].tolist() for name, loss in last.items()} for i, level in enumerate(config.wrong)
        },
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
