"""What the experiments on images share: the parts of the data, who sees what, the other ways to phi."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from _common import Settings, draw

from metapt import data, hypergrad, models, recipes, solvers, updates
from metapt.data import TrainTest
from metapt.io import arms
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Arm
from metapt.types import Model, Stage


@dataclass(frozen=True)
class ImageConfig(Settings):
    """Fields of every experiment on images; each can be set on the command line."""

    train_labels: int = 100
    """Labelled images for fine-tuning, a multiple of 10 (the classes)."""
    access_classes: int = 10
    """Classes that meta-learning sees among them; below 10: partial fine-tuning access."""
    variants: bool = False
    """Also the other ways to the meta-parameters, at equal compute: other hypergradients, searches, longer pre-training."""

    def __post_init__(self):
        check_numbers(self, **self.least())
        super().__post_init__()
        if self.access_classes > 10:
            raise ValueError(f"access_classes={self.access_classes} must be at most 10")

    def least(self) -> dict[str, float]:
        return {"seed": 0, "warm_up": 0, "neumann_terms": 0, "outer_steps": self.warm_up + 1, "final_steps": 0}

    def images(self, rng: np.random.Generator) -> TrainTest:
        """Images `[N, H, W]` in [0, 1], background 0."""
        x, y = data.digits()
        x, order = np.asarray(x).reshape(-1, 8, 8) + 0.5, rng.permutation(len(y))
        train, test = order[:-400], order[-400:]
        return TrainTest(data.Labelled(x[train], y[train]), data.Labelled(x[test], y[test]))

    @property
    def pixels(self) -> int:
        return 64

    def encoder(self) -> Model:
        """Images to features: an MLP on pixels in [-0.5, 0.5]."""
        mlp = models.mlp(self.pixels, (self.hidden, self.features))
        return models.relu(Model(mlp.init, lambda params, x: mlp.apply(params, x - 0.5)))


@dataclass(frozen=True)
class MnistFile:
    """Where MNIST is; mix it in before a config on the digits."""

    data: str = ""
    """A folder or an .npz file with MNIST."""

    @functools.cached_property
    def mnist(self) -> TrainTest:
        return data.mnist(self.data)

    @property
    def pixels(self) -> int:
        return 784


@dataclass(frozen=True)
class Mnist(MnistFile):
    """And its sizes."""

    train_labels: int = 200
    """Labelled images for fine-tuning, a multiple of 10 (the classes)."""
    validation_labels: int = 800
    """Further labelled images: the loss that meta-learning minimises. The final fine-tuning trains on both kinds."""
    pool: int = 6000
    """Images to pre-train on."""
    monitor: int = 500
    """Labelled images for the curves."""

    @functools.cached_property
    def brightness(self) -> TrainTest:
        """Images in [0, 1], background 0."""
        return jax.tree.map(lambda a: a + 0.5 if a.ndim == 3 else a, self.mnist)

    def images(self, rng: np.random.Generator) -> TrainTest:
        return self.brightness


def parts(
    config: ImageConfig, rng: np.random.Generator, pool: int, monitor: int
) -> tuple[dict[str, Any], data.Labelled]:
    """One run's data: `labelled` (the final fine-tuning), of it `train` and `validation` (meta-learning), `monitor`, `pool`."""
    train, test = config.images(rng)
    y, n = np.asarray(train.y), config.train_labels + config.validation_labels
    labelled = data.balanced(rng, y, n)
    seen = labelled[y[labelled] < config.access_classes]
    cut, end = (round(size * config.access * config.access_classes / 10) for size in (config.train_labels, n))
    if not 0 < cut < end:
        raise ValueError(
            f"access={config.access} leaves meta-learning {cut} images to train on and {end - cut} to validate on"
        )
    rest = rng.permutation(np.setdiff1d(np.arange(len(y)), labelled))
    if len(rest) < pool + monitor:
        raise ValueError(f"pool={pool} must be at most {len(rest) - monitor}: the data have no more images")
    index = {
        "labelled": labelled,
        "train": seen[:cut],
        "validation": seen[cut:end],
        "monitor": rest[:monitor],
        "pool": rest[monitor : monitor + pool],
    }
    return {name: train.rows(rows) for name, rows in index.items()}, test


def implicit(config: Settings) -> Callable[[Stage], Any]:
    """The rule of `meta`."""
    return lambda stage: hypergrad.implicit(stage, solvers.neumann(config.neumann_terms))


def other_ways(
    config: ImageConfig,
    budget: int,
    compose: Callable[..., recipes.Pieces],
    start: Callable[[recipes.Pieces], arms.Start],
    export: arms.Finish,
    learning_rate: float,
    box: tuple[float, float] | None,
) -> tuple[Arm, ...]:
    """Other hypergradients and, for a single number in `box`, searches: each may spend `budget` gradient evaluations.

    `exact` unrolls 100 steps of pre-training from scratch for every move of phi; it and the searches end with a
    pre-training like `replay`'s, at the phi that they found.
    """
    cost, steps = Cost(config.pretrain_steps, config.finetune_steps), config.outer_steps
    left = budget - config.warm_up * cost.forward

    def online(name, price, **how):
        moves = left // price
        pieces = compose(optax.cosine_decay_schedule(learning_rate, moves), **how)
        return arms.learning(
            name, pieces.algorithm, (config.warm_up, moves, 0), (cost.forward, price), start(pieces), export
        )

    one_step = online(
        "one_step",
        cost.implicit(0, power=0),
        rule=lambda stage: hypergrad.implicit(stage, solvers.neumann(0, step=1.0)),
    )
    truncated = online("truncated", cost.unrolled, rule=hypergrad.unroll)
    length = 100
    whole_run = Cost(length, config.finetune_steps)
    moves = max(1, budget // whole_run.unrolled)
    pieces = compose(
        optax.cosine_decay_schedule(learning_rate, moves), rule=lambda stage: hypergrad.unroll(stage, remat="nested")
    )
    exact = arms.restarting(
        "exact",
        pieces.algorithm,
        moves,
        steps,
        (whole_run.unrolled, cost.forward),
        lambda arrays, key: draw(config, arrays, key, length),
        start(pieces),
        export,
    )
    if box is None:
        return one_step, truncated, exact
    differences = online(
        "differences", cost.differences(1), differentiate=hypergrad.central_differences(0.05 * (box[1] - box[0]))
    )
    pieces, trial_steps = compose(learning_rate), max(1, steps // 5)
    trials = max(1, budget // (trial_steps * cost.forward))
    searches = (
        arms.searching(
            name,
            pieces.algorithm,
            suggest([box[0]], [box[1]]),
            trials,
            trial_steps,
            steps,
            cost.forward,
            start(pieces),
            export,
        )
        for name, suggest in (("random_search", updates.random_search), ("tpe", updates.tpe))
    )
    return one_step, truncated, exact, differences, *searches
