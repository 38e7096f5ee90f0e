"""What the experiments on images share: the parts of the data, who sees what, how an encoder is judged, the other ways to phi."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metapt import data, hypergrad, models, objectives, solvers, stages, updates
from metapt.data import TrainTest
from metapt.io import arms
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Arm
from metapt.recipes import Pieces
from metapt.types import Batches, Model, Stage


@dataclass(frozen=True)
class ImageConfig:
    """Fields of every experiment on images; each can be set on the command line."""

    seed: int = 0
    """Of everything random."""
    train_labels: int = 100
    """Labelled images for fine-tuning, a multiple of 10 (the classes)."""
    validation_labels: int = 200
    """Further labelled images: the loss that meta-learning minimises. The final fine-tuning trains on both kinds."""
    access: float = 1.0
    """Share of those images that meta-learning sees; below 1: partial fine-tuning access."""
    access_classes: int = 10
    """Classes that meta-learning sees among them; below 10: partial fine-tuning access."""
    outer_steps: int = 200
    """Outer steps, warm-up included."""
    warm_up: int = 20
    """Outer steps before learning begins."""
    pretrain_steps: int = 5
    """P, pre-training steps of an outer step."""
    finetune_steps: int = 1
    """K, fine-tuning steps of an outer step."""
    batch: int = 128
    """Images in a pre-training batch."""
    hidden: int = 128
    """Width of the encoder's hidden layer."""
    features: int = 64
    """Width of the encoder's output."""
    neumann_terms: int = 20
    """Terms of the inverse-Hessian series beyond the first."""
    pretrain_lr: float = 1e-3
    """Adam's learning rate in pre-training."""
    finetune_lr: float = 0.1
    """SGD's learning rate in the fine-tuning inside meta-learning."""
    final_steps: int = 100
    """Steps of the final fine-tuning."""
    final_lr: float = 1e-3
    """Adam's learning rate in the final fine-tuning."""
    variants: bool = False
    """Also the other ways to the meta-parameters, at equal compute: other hypergradients, searches, longer pre-training."""

    def __post_init__(self):
        check_numbers(self, **self.least())
        for name, most in (("access", 1.0), ("access_classes", 10)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}={getattr(self, name)} must be at most {most}")

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


class Mnist:
    """For a config on MNIST: mix it in before the config on the digits."""

    data: str

    def images(self, rng: np.random.Generator) -> TrainTest:
        return jax.tree.map(lambda a: a + 0.5 if a.ndim == 3 else a, data.mnist(self.data))

    @property
    def pixels(self) -> int:
        return 784


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


def stack(runs: list[Any]) -> Any:
    """Trees of runs as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)


def draw(config: ImageConfig, arrays: Mapping[str, Any], key: jax.Array, steps: int | None = None) -> Batches:
    """Random pre-training batches; fine-tuning and validation use all of their few labels at every step."""
    train = jax.tree.map(lambda a: jnp.broadcast_to(a, (config.finetune_steps, *a.shape)), arrays["train"])
    pretrain = data.draw(key, arrays["pool"], steps or config.pretrain_steps, config.batch)
    return Batches(pretrain, train, arrays["validation"])


def encode(config: ImageConfig) -> Model:
    """Images to features: an MLP on pixels in [-0.5, 0.5]."""
    mlp = models.mlp(config.pixels, (config.hidden, config.features))
    return models.relu(Model(mlp.init, lambda params, x: mlp.apply(params, x - 0.5)))


def fine_tune_and_score(config: ImageConfig, model: Model) -> Callable[..., jax.Array]:
    """(params, arrays, examples, key) -> accuracy on the examples, after fine-tuning the whole network on all labelled images."""
    stage = Stage(objectives.cross_entropy(objectives.whole(model)), optax.adam(config.final_lr))
    train = stages.trainer(stage)

    def judge(params, arrays, examples, key):
        if config.final_steps:
            batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (config.final_steps, *a.shape)), arrays["labelled"])
            state, _ = train(stages.start(stage, params), None, batches, stages.step_keys(key, batches))
            params = state.params
        return objectives.accuracy(model.apply(params, examples.x), examples.y)

    return judge


def other_ways(
    config: ImageConfig,
    compose: Callable[..., Pieces],
    start: Callable[[Pieces], arms.Start],
    export: arms.Finish,
    learning_rate: float,
    box: tuple[float, float] | None,
) -> tuple[Arm, ...]:
    """Other hypergradients and, for a single number in `box`, searches: each may spend what `meta` spends in all.

    `exact` unrolls 100 steps of pre-training from scratch for every move of phi; it and the searches end with a
    pre-training like `replay`'s, at the phi that they found.
    """
    cost, steps = Cost(config.pretrain_steps, config.finetune_steps), config.outer_steps
    learn = steps - config.warm_up
    budget = config.warm_up * cost.forward + learn * cost.implicit(config.neumann_terms)
    left = budget - config.warm_up * cost.forward

    def online(name, price, **how):
        moves = left // price
        pieces = compose(cosine(learning_rate, moves), **how)
        return arms.learning(
            name, pieces.algorithm, config.warm_up, moves, (cost.forward, price), start(pieces), export
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
    pieces = compose(cosine(learning_rate, moves), rule=lambda stage: hypergrad.unroll(stage, remat="nested"))
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


def cosine(learning_rate: float, steps: int, share: float = 1.0) -> optax.Schedule:
    """From `learning_rate` to 0 after `share` of the steps."""
    return optax.cosine_decay_schedule(learning_rate, max(1, round(share * steps)))


REPORT = {  # panels of `plots.reports`
    "validation_loss": "validation loss",
    "hypergradient_norm": "norm of the\nhypergradient",
    "report.residual": "solve: relative\nresidual",
    "report.contraction": "solve: contraction\na term",
    "report.negative_curvature": "solve: negative\ncurvature met",
}
