"""Half of the labels were redrawn: which examples are to be trusted? One weight each, learned; on scikit-learn's digits.

    metapt run data_cleaning

Softmax regression is trained on images of which a share has labels drawn anew, by gradient descent from zero; the weights of
the images are moved by the derivative of the loss on a few clean images, through every step. Arms: equal weights (`equal`), as
many further steps with them as learning cost (`longer`), the clean images alone (`clean`) and with all others (`both`), learned
weights (`learned`), those with the clean images (`learned_both`), learned weights dealt out at random (`shuffled`), the
right labels alone (`oracle`). All arms end with the same number of steps from where they start.

About a minute on one CPU core. Expected at level 0.5: `learned` 0.09 above `equal`, `learned_both` 0.1, where `clean` is 0.09
above; area under the ROC curve of the weights 0.88. At level 0 `learned` loses up to 0.02.
Null control, in which no gain can be: the level 0 of `noise`, which is among the default levels.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import by_level, redrawn, repeat, stack
from jax.tree_util import Partial
from sklearn.metrics import roc_auc_score

from metapt import data, hypergrad, models, objectives, recipes, stages
from metapt.data import Labelled
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.types import Batches

METHOD = recipes.hyper_cleaning.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 6
    """Independent splits and wrong labels at each level of noise."""
    seed: int = 0
    """Of everything random."""
    noise: tuple[float, ...] = (0.5, 0.0)
    """Shares of the training labels that are drawn anew, from all classes."""
    train: int = 300
    """Images to train on."""
    validation: int = 100
    """Clean images, a multiple of 10."""
    monitor: int = 300
    """Further clean images, for the curves."""
    steps: int = 100
    """T, training steps, on all images each."""
    lr: float = 1.0
    """Their learning rate (gradient descent)."""
    l2: float = 0.0
    """Penalty on the parameters in training."""
    outer_steps: int = 60
    """Moves of the weights."""
    meta_lr: float = 0.1
    """Adam's learning rate for them."""

    def __post_init__(self):
        check_numbers(self, seed=0, noise=0.0, l2=0.0)
        if not self.noise or max(self.noise) > 1:
            raise ValueError(f"noise={self.noise} must name levels from 0 to 1")


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    model = models.linear(64, 10, zero=True)
    compose = lambda rule=hypergrad.unroll: recipes.hyper_cleaning.hyper_cleaning(
        model, config.train, optax.sgd(config.lr), optax.adam(config.meta_lr), config.l2, rule
    )
    method = compose()
    first = lambda key: stages.start_model(method.inner, model, key)

    def weights(train, clean):
        return jnp.concatenate([jnp.broadcast_to(train, config.train), jnp.full(config.validation, float(clean))])

    def relative(weights):  # their mean is 1 in training
        return Partial(_of_number, len(weights) * weights / weights.sum())

    def learned(state):
        values = method.meta.constrain(state.phi)((None, np.zeros(config.train), jnp.arange(config.train)))
        return {"encoder": {"weights": weights(values, 0), "start": state.finetune.params}}

    def fixed(name, weigh, steps=0):
        context = lambda key, arrays, exports: relative(weigh(arrays, exports, key))
        export = lambda context, state: {"encoder": {"weights": context.args[0], "start": state.params}}
        draw = lambda arrays, key: Batches(repeat(arrays["all"], config.steps), None, None)
        return arms.pretraining(name, method.fit, steps, config.steps, context, first, export, draw)

    price = Cost(0, config.steps).unrolled
    own = lambda exports: exports["learned"]["encoder"]["weights"][: config.train]
    compared = (
        fixed("equal", lambda arrays, exports, key: weights(1.0, 0)),
        fixed("longer", lambda arrays, exports, key: weights(1.0, 0), config.outer_steps * price // config.steps),
        fixed("clean", lambda arrays, exports, key: weights(0.0, 1)),
        fixed("both", lambda arrays, exports, key: weights(1.0, 1)),
        arms.learning(
            "learned",
            method.algorithm,
            (0, config.outer_steps, 0),
            (0, price),
            lambda key, arrays: method.start(key),
            learned,
            compose=lambda rule: compose(rule).algorithm,
        ),
        fixed("learned_both", lambda arrays, exports, key: weights(own(exports), 1)),
        fixed("shuffled", lambda arrays, exports, key: weights(jax.random.permutation(key, own(exports)), 0)),
        fixed("oracle", lambda arrays, exports, key: weights(arrays["right"], 0)),
    )
    train = stages.trainer(method.inner)

    def judge(encoder, arrays, examples, key):
        batches = repeat(arrays["all"], config.steps)
        state = stages.start(method.inner, encoder["start"])
        state, _ = train(state, relative(encoder["weights"]), batches, stages.step_keys(key, batches))
        return objectives.accuracy(model.apply(state.params, examples.x), examples.y)

    arrays, test = _arrays(config)
    clean = lambda arrays: jax.tree.map(lambda a: a[config.train :], Labelled(*arrays["all"][:2]))
    return Experiment(
        metric="accuracy on clean images",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(
            None, repeat(jax.tree.map(lambda a: a[: config.train], arrays["all"]), config.steps), clean(arrays)
        ),
        arms=compared,
        monitor=lambda encoder, arrays, key: judge(encoder, arrays, arrays["monitor"], key),
        evaluate=lambda encoder, arrays, test, key: judge(encoder, arrays, test, key),
        baseline="equal",
        summarize=lambda outcome: _figures(config, compared, arrays["right"], outcome),
        plots=lambda outcome: {
            "weights": plots.example_weights(
                _learned(config, outcome), np.asarray(arrays["right"]) > 0.5, np.repeat(config.noise, config.seeds)
            ),
            "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
        },
    )


def _of_number(weights, batch):
    return weights[batch[2]]


def _arrays(config: Config):
    """By level of noise, then by seed: `all` images to train on with labels and numbers, the clean ones last; `right`: labels
    that are. Splits are the same at every level. Test apart.
    """
    images, runs, tests = data.digits(), [], []
    y = np.asarray(images.y)
    for level in config.noise:
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            clean = data.balanced(rng, y, config.validation)
            rest = rng.permutation(np.setdiff1d(np.arange(len(y)), clean))
            if len(rest) <= config.train + config.monitor:
                raise ValueError(f"train={config.train} and monitor={config.monitor} leave no images for the test")
            train, monitor, test = np.split(rest, [config.train, config.train + config.monitor])
            drawn = redrawn(rng, y[train], level)
            rows = np.concatenate([train, clean])
            labels = np.concatenate([drawn, y[clean]]).astype(np.int32)
            runs.append(
                {
                    "all": (images.x[rows], labels, np.arange(len(rows), dtype=np.int32)),
                    "right": (drawn == y[train]).astype(np.float32),
                    "monitor": images.rows(monitor),
                }
            )
            tests.append(images.rows(test))
    return stack(runs), stack(tests)


def _learned(config: Config, outcome: Outcome) -> np.ndarray:
    return np.asarray(outcome.exports["learned"]["encoder"]["weights"])[:, : config.train]


def _figures(config: Config, compared, right, outcome: Outcome) -> dict[str, Any]:
    """By level: accuracies against `equal`, and `weight_auc`, how well the learned weight tells right labels from wrong ones."""
    by_seed = lambda values: values.reshape(len(config.noise), config.seeds, *values.shape[1:])
    weights, right = by_seed(_learned(config, outcome)), by_seed(np.asarray(right)) > 0.5
    areas = {
        str(level): [float(roc_auc_score(r, w)) for w, r in zip(weights[i], right[i], strict=True) if not r.all()]
        for i, level in enumerate(config.noise)
    }
    scores = {name: by_seed(score) for name, score in outcome.scores.items()}
    return {
        "by_noise": by_level(scores, config.noise, "equal"),
        "weight_auc": {level: float(np.mean(area)) if area else None for level, area in areas.items()},
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
