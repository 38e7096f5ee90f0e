"""The classes' shares have changed since training: what is a confusion matrix worth? On scikit-learn's digits.

    metapt run label_shift

The source has all classes alike; the target's shares are drawn from a Dirichlet distribution, and nobody knows its labels.
Logistic regression, trained on a few source images, is held against further source images (its confusion matrix) and
against the target's images (its predictions); a linear solve gives the classes' weights, and training starts afresh with them.
Arms: equal weights (`equal`), weights by its decisions (`bbse`) and by its probabilities (`bbse_soft`), `bbse` only where a
test finds a shift (`detected`), the true weights (`oracle`). The target's test images are others than those of the solve.
Classes of the target are drawn with replacement from their images.

Half a minute of one CPU core. Expected at level 10: squared error of the weights 0.04 against 4.4, `bbse` 0.07 above `equal`,
`oracle` 0.077; a shift is detected in 1 of 20 runs at level 0.
Null control, in which no gain can be: the level 0 of `shift`, which is among the default levels.
On MNIST, shrunk to 8 x 8 pixels: --data FOLDER --train-labels 400 --held-out 1000 --target 1000
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from _common import by_level, small_images, stack

from metapt import data, models, recipes
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.experiment import Experiment, Outcome
from metapt.objectives import accuracy
from metapt.types import Batches

METHOD = recipes.bbse.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 20
    """Independent splits, shares and batches at each level of shift."""
    seed: int = 0
    """Of everything random."""
    data: str = ""
    """A folder or an .npz file with MNIST; without it the digits."""
    shift: tuple[float, ...] = (10.0, 1.0, 0.1, 0.0)
    """Levels: 1 / concentration of the Dirichlet distribution of the target's class shares; 0: they are alike."""
    train_labels: int = 100
    """Labelled source images to train on, a multiple of 10."""
    held_out: int = 600
    """Labelled source images for the confusion matrix."""
    target: int = 600
    """Images of the target without labels, and as many for the test."""
    steps: int = 400
    """Training steps."""
    batch: int = 100
    """Images in a batch."""
    lr: float = 0.03
    """Adam's learning rate."""
    l2: float = 1e-3
    """Penalty on the parameters."""
    least: float = 1e-3
    """Smallest singular value of the confusion matrix that is inverted."""
    level: float = 0.05
    """Of the test for a shift."""

    def __post_init__(self):
        check_numbers(self, seed=0, shift=0.0)


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    model = models.linear(64, 10, zero=True)
    compose = lambda soft: recipes.bbse.bbse(model, 10, optax.adam(config.lr), config.l2, config.least, soft)
    hard, soft = compose(False), compose(True)

    def arm(name, weigh):
        context = lambda key, arrays, exports: hard.context(weigh(arrays, exports))
        export = lambda context, state: {"encoder": state.params, "weights": context.args[0]}
        return arms.pretraining(name, hard.fit, config.steps, 1, context, hard.start, export)

    trained = lambda exports: exports["equal"]["encoder"]
    estimate = lambda method, arrays, exports: method.estimate(trained(exports), arrays["held_out"], arrays["target"])

    def detected(arrays, exports):
        p_value = hard.p_value(trained(exports), arrays["held_out"].x, arrays["target"])
        return jnp.where(p_value < config.level, exports["bbse"]["weights"], 1.0)

    arrays, test = _arrays(config)
    return Experiment(
        metric="accuracy on the target",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(data.draw(key, arrays["train"], 1, config.batch), None, None),
        arms=(
            arm("equal", lambda arrays, exports: jnp.ones(10)),
            arm("bbse", lambda arrays, exports: estimate(hard, arrays, exports)),
            arm("bbse_soft", lambda arrays, exports: estimate(soft, arrays, exports)),
            arm("detected", detected),
            arm("oracle", lambda arrays, exports: arrays["weights"]),
        ),
        monitor=lambda params, arrays, key: accuracy(model.apply(params, arrays["held_out"].x), arrays["held_out"].y),
        evaluate=lambda params, arrays, test, key: accuracy(model.apply(params, test.x), test.y),
        baseline="equal",
        summarize=lambda outcome: _figures(config, arrays, outcome),
        plots=lambda outcome: {
            "accuracy": plots.by_level(
                {name: _levels(config, scores) for name, scores in outcome.scores.items()},
                config.shift,
                "1 / concentration of the target's shares",
                "accuracy on the target",
            )
        },
    )


def _arrays(config: Config):
    """Splits by seed, the same at every level of shift; runs are ordered by level, then by seed. Test apart."""
    images, runs, tests = small_images(config.data), [], []
    y = np.asarray(images.y)
    for shift in config.shift:
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            train = data.balanced(rng, y, config.train_labels)
            rest = rng.permutation(np.setdiff1d(np.arange(len(y)), train))
            held_out, target, test = np.split(rest, [config.held_out, (config.held_out + len(rest)) // 2])
            share = rng.dirichlet(np.full(10, 1 / shift)) if shift else np.full(10, 0.1)
            rows = {"train": train, "held_out": held_out}
            source = {name: images.rows(index) for name, index in rows.items()}
            seen, judged = (images.rows(_draw(rng, y, part, share, config.target)) for part in (target, test))
            weights = share / (np.bincount(source["held_out"].y, minlength=10) / config.held_out)
            runs.append({**source, "target": seen.x, "weights": weights.astype(np.float32)})
            tests.append(judged)
    return stack(runs), stack(tests)


def _draw(rng: np.random.Generator, y: np.ndarray, part: np.ndarray, share: np.ndarray, n: int) -> np.ndarray:
    """`n` rows of `part`, with replacement, so that the classes have these shares."""
    of_class = [part[y[part] == label] for label in range(10)]
    short = [label for label, rows in enumerate(of_class) if not len(rows)]
    if short:
        raise ValueError(f"the classes {short} have no images left for the target: lower held_out or train_labels")
    return np.array([rng.choice(of_class[label]) for label in rng.choice(10, n, p=share)])


def _levels(config: Config, values: np.ndarray) -> np.ndarray:
    """`[runs, ...] -> [levels, seeds, ...]`."""
    return values.reshape(len(config.shift), config.seeds, *values.shape[1:])


def _figures(config: Config, arrays, outcome: Outcome) -> dict[str, Any]:
    """By level: accuracies against `equal`, `squared_error` of the weights (mean over classes), share of runs `detected`."""
    true = np.asarray(arrays["weights"])
    scores = {name: _levels(config, score) for name, score in outcome.scores.items()}
    weights = {name: np.asarray(export["weights"]) for name, export in outcome.exports.items()}
    errors = {name: _levels(config, ((w - true) ** 2).mean(1)).mean(1).tolist() for name, w in weights.items()}
    found = _levels(config, (weights["detected"] != 1).any(1)).mean(1)
    return {
        "by_shift": by_level(scores, config.shift, "equal"),
        "squared_error": {
            str(level): {name: error[i] for name, error in errors.items()} for i, level in enumerate(config.shift)
        },
        "detected": {str(level): float(share) for level, share in zip(config.shift, found, strict=True)},
    }
