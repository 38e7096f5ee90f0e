"""By how much are the fine-tuning images turned? One angle of pre-training, found by gradient, on scikit-learn's digits.

    metapt run digits_rotation

Fine-tuning and test images are turned by N(90, 1) degrees, pre-training images by N(phi, 1) degrees, phi unknown: ten runs
start from phi = 9, 27, ..., 171. Arms: no pre-training (`none`), images as they are (`unrotated`), phi at its start
(`start`), phi learned while pre-training proceeds (`meta`), pre-training afresh with the phi that `meta` ended with
(`replay`), phi = 90 (`oracle`). Curves come from further labelled images; the test images are read once, at the end.

Two to three minutes on one CPU core. Expected: mean_angle_error_degrees 1.7, the largest 4.3; `meta` 0.106 above `unrotated`.
Null control, in which nothing must move: --target 0 --spread 0
All the way round, where some starts end upside down (0, 1 and 8 look the same, 6 and 9 change places): --spread 360
Partial fine-tuning access: --access 0.2, or --access-classes 5. Other ways to the angle, at equal compute: --variants
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, comparison, fine_tune_and_score, schedule, stack
from _images import ImageConfig, implicit, other_ways, parts

from metapt import data, recipes
from metapt.io import arms, plots
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome

METHOD = recipes.augmentation.METHOD


@dataclass(frozen=True)
class Config(ImageConfig):
    """Every field can be set on the command line."""

    seeds: int = 10
    """Starts of phi; each has its own split and network too."""
    target: float = 90.0
    """Mean angle of the fine-tuning images, in degrees, counter-clockwise."""
    std: float = 1.0
    """Standard deviation of all angles, in degrees."""
    first: float = 0.0
    """Where the range of the starts of phi begins, in degrees."""
    spread: float = 180.0
    """The starts are the middles of equal parts of `[first, first + spread]`: none is as far from upside down as from upright."""
    train_labels: int = 200
    """Labelled images for fine-tuning, a multiple of 10 (the classes)."""
    validation_labels: int = 400
    """Further labelled images: the loss that meta-learning minimises. The final fine-tuning trains on both kinds."""
    changing: bool = True
    """Which of the labelled images are of which kind changes at every outer step: no single validation set can be fitted."""
    pool: int = 700
    """Images to pre-train on."""
    warm_up: int = 5
    """Outer steps before learning begins: few, as a network that is sure of its angle sees no other."""
    monitor: int = 90
    """Labelled images for the curves."""
    l2: float = 1e-3
    """Penalty on the parameters in pre-training."""
    order: Literal[1, 2] = 2
    """Of the interpolation: 2 blurs nearly alike at every angle, 1 (bilinear) not at all at 90 degrees, which phi then avoids."""
    meta_lr: float = 8.0
    """Adam's learning rate for phi, in degrees, at first; along a cosine it comes to 0."""

    def least(self) -> dict[str, float]:
        return super().least() | {"target": -360.0, "first": -360.0, "spread": 0.0, "std": 0.0, "l2": 0.0}


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    encoder = config.encoder()

    def compose(meta_lr, rule=implicit(config), **how):
        return recipes.augmentation.augmentation(
            encoder,
            config.features,
            classes=10,
            view=data.random_rotation(config.std, config.order),
            l2=config.l2,
            pretrain_optimizer=optax.adam(config.pretrain_lr, eps_root=1e-12),
            finetune_optimizer=optax.sgd(config.finetune_lr),
            meta_optimizer=optax.adam(meta_lr, b2=0.99),
            rule=rule,
            **how,
        )

    steps = schedule(config)
    pieces = compose(optax.cosine_decay_schedule(config.meta_lr, steps[1]))

    def start(pieces):
        return lambda key, arrays: pieces.start(key, arrays["start"])

    def fixed(name, angle, steps=config.outer_steps):
        context = lambda key, arrays, exports: jnp.asarray(angle(arrays, exports), jnp.float32)
        finish = lambda angle, pretrain: {"encoder": pretrain.params, "angle": angle}
        first = pieces.start_pretrain
        return arms.pretraining(name, pieces.pretrain_fit, steps, config.pretrain_steps, context, first, finish)

    export = lambda state: {"encoder": state.pretrain.params, "angle": state.phi}
    cost = Cost(config.pretrain_steps, config.finetune_steps)
    prices = cost.forward, cost.implicit(config.neumann_terms)
    compared = (
        fixed("none", lambda arrays, exports: 0.0, steps=0),
        fixed("unrotated", lambda arrays, exports: 0.0),
        fixed("start", lambda arrays, exports: arrays["start"]),
        arms.learning(
            "meta",
            pieces.algorithm,
            steps,
            prices,
            start(pieces),
            export,
            lambda state, batches: {"angle": state.phi},
            lambda rule: compose(config.meta_lr, rule).algorithm,
        ),
        fixed("replay", lambda arrays, exports: exports["meta"]["angle"]),
        fixed("oracle", lambda arrays, exports: config.target),
    )
    if config.variants:
        budget = arms.gradient_evaluations(compared)["meta"]
        compared += (fixed("unrotated_longer", lambda arrays, exports: 0.0, budget // config.pretrain_steps),)
        box = config.first, config.first + config.spread
        compared += other_ways(config, budget, compose, start, export, config.meta_lr, box if config.spread else None)
    judge = fine_tune_and_score(config, pieces.finetune_model)
    return comparison(
        config,
        _arrays(config),
        compared,
        lambda params, arrays, examples, key: judge(params, arrays["labelled"], examples, key),
        baseline="unrotated",
        summarize=lambda outcome: _figures(config, compared, outcome),
        plots=lambda outcome: _plots(config, outcome),
    )


def _arrays(config: Config):
    """One split a run, all but the pool turned; test apart."""
    turn = jax.jit(jax.vmap(functools.partial(data.rotate, order=config.order)))
    runs, tests = [], []
    for run in range(config.seeds):
        rng = np.random.default_rng([config.seed, run])
        arrays, test = parts(config, rng, config.pool, config.monitor)
        turned = lambda part, rng=rng: part._replace(
            x=turn(part.x, config.target + config.std * rng.normal(size=len(part.y)))
        )
        tests.append(turned(test))
        # `train` and `validation` are the very images of `labelled`, but a random view of their own.
        arrays = {name: part if name == "pool" else turned(part) for name, part in arrays.items()}
        runs.append({**arrays, "start": np.float32(config.first + config.spread * (run + 0.5) / config.seeds)})
    return stack(runs), stack(tests)


def _figures(config: Config, compared, outcome: Outcome) -> dict[str, Any]:
    """`angle_error_degrees`: distance of the learned angle from the target on the circle, one a start."""
    error = {name: np.abs(_off(config, export["angle"])) for name, export in outcome.exports.items()}
    figures = {
        "angle_degrees": np.asarray(outcome.exports["meta"]["angle"], float).tolist(),
        "angle_error_degrees": error["meta"].tolist(),
        "mean_angle_error_degrees": float(error["meta"].mean()),
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
    if config.variants:
        figures["mean_angle_error_degrees_by_arm"] = {name: float(value.mean()) for name, value in error.items()}
    return figures


def _off(config: Config, angle) -> np.ndarray:
    return (np.asarray(angle, float) - config.target + 180.0) % 360.0 - 180.0


def _plots(config: Config, outcome: Outcome):
    angles = np.array(outcome.infos["meta"]["angle"], float)
    return {
        "angles": plots.traces(
            angles, config.target, "outer step", "learned angle (degrees)", "Every start of the angle"
        ),
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
        "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
    }
