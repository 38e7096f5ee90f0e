"""What all experiments share: the steps of an outer step and of the final fine-tuning, batches, how an encoder is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metapt import data, hypergrad, objectives, solvers, stages
from metapt.io import stats
from metapt.io.cost import Cost
from metapt.io.experiment import Arm, Experiment, Outcome
from metapt.types import Batches, Model, Rule, Stage, StageState

RuleName = Literal["unroll", "implicit"]


@dataclass(frozen=True)
class Steps:
    """Fields of every experiment; each can be set on the command line."""

    seeds: int = 5
    """Independent runs: splits, tasks, initial parameters and batches all differ."""
    seed: int = 0
    """Of everything random."""
    outer_steps: int = 200
    """Outer steps, warm-up included."""
    warm_up: int = 20
    """Outer steps before learning begins."""
    pretrain_steps: int = 5
    """P, pre-training steps of an outer step."""
    finetune_steps: int = 1
    """K, fine-tuning steps of an outer step."""
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


@dataclass(frozen=True)
class Settings(Steps):
    """Fields of every experiment on images."""

    train_labels: int = 100
    """Labelled images for the fine-tuning inside meta-learning."""
    validation_labels: int = 200
    """Further labelled images: the loss that meta-learning minimises. The final fine-tuning trains on both kinds."""
    changing: bool = False
    """Which of the labelled images are of which kind changes at every outer step: no single validation set can be fitted."""
    hidden: int = 128
    """Width of the encoder's hidden layer."""
    features: int = 64
    """Width of the encoder's output."""
    batch: int = 128
    """Images in a pre-training batch."""
    access: float = 1.0
    """Share of the labelled images that meta-learning sees; below 1: partial fine-tuning access."""

    def __post_init__(self):
        if self.access > 1:
            raise ValueError(f"access={self.access} must be at most 1")


def draw(config: Settings, arrays: Mapping[str, Any], key: jax.Array, steps: int | None = None) -> Batches:
    """Random pre-training batches; fine-tuning and validation use all of their few labels at every step."""
    pretrain = data.draw(key, arrays["pool"], steps or config.pretrain_steps, config.batch)
    kinds = arrays["train"], arrays["validation"]
    if config.changing:
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *kinds)
        order = jax.random.permutation(jax.random.fold_in(key, 1), len(together.y))
        kinds = (together.rows(rows) for rows in jnp.split(order, [len(kinds[0].y)]))
    train, validation = kinds
    return Batches(pretrain, repeat(train, config.finetune_steps), validation)


def fine_tune_and_score(config: Settings, model: Model) -> Callable[..., jax.Array]:
    """(params, labelled, examples, key) -> accuracy on the examples, after fine-tuning the whole network on `labelled`."""
    stage = Stage(objectives.cross_entropy(objectives.whole(model)), optax.adam(config.final_lr))
    train = stages.trainer(stage)

    def judge(params, labelled, examples, key):
        if config.final_steps:
            batches = repeat(labelled, config.final_steps)
            state, _ = train(stages.start(stage, params), None, batches, stages.step_keys(key, batches))
            params = state.params
        return objectives.accuracy(model.apply(params, examples.x), examples.y)

    return judge


def comparison(
    config: Settings,
    arrays: tuple[Any, Any],
    arms: tuple[Arm, ...],
    judge: Callable[..., jax.Array],
    baseline: str,
    summarize: Callable[[Outcome], dict[str, Any]],
    plots: Callable[[Outcome], dict[str, Any]],
) -> Experiment:
    """`arms` judged by `judge(encoder, arrays, examples, key)`: curves on `arrays["monitor"]`, the end on the test images."""
    return Experiment(
        metric="test accuracy after fine-tuning",
        higher_is_better=True,
        data=arrays[0],
        test=arrays[1],
        draw=lambda arrays, key: draw(config, arrays, key),
        arms=arms,
        monitor=lambda encoder, arrays, key: judge(encoder, arrays, arrays["monitor"], key),
        evaluate=judge,
        baseline=baseline,
        summarize=summarize,
        plots=plots,
    )


def train(stage: Stage, state: StageState, draw: Callable[[jax.Array], Any], key: jax.Array, steps: int) -> StageState:
    """`steps` steps, each on `draw(key)`, a batch."""

    def step(state, key):
        draw_key, step_key = jax.random.split(key)
        return stages.step(stage, None, state, (draw(draw_key), step_key))

    return stages.loop.auto(step, state, jax.random.split(key, steps))[0]


def fit_head(
    stage: Stage, head: Model, known: data.Labelled, unknown: jax.Array, key: jax.Array, steps: int
) -> jax.Array:
    """Linear evaluation: outputs for `unknown` features of a head trained on `known` ones, both standardised by these."""
    mean, spread = known.x.mean(0), known.x.std(0) + 1e-6
    batch = (known.x - mean) / spread, known.y
    state = train(stage, stages.start(stage, head.init(key)), lambda key: batch, key, steps)
    return head.apply(state.params, (unknown - mean) / spread)


def by_level(scores: Mapping[str, np.ndarray], levels: Sequence[Any], reference: str) -> dict[str, Any]:
    """The comparison with one arm, `reference`, at every level of a setting; scores `[levels, seeds]`."""
    return {
        str(level): {
            name: {"mean": float(score[i].mean())}
            | ({} if name == reference else {f"minus_{reference}": stats.paired(score[i], scores[reference][i])})
            for name, score in scores.items()
        }
        for i, level in enumerate(levels)
    }


def small_images(path: str) -> data.Labelled:
    """The digits, or if there is a path MNIST's training images shrunk to their size: x `[N, 64]` in [-0.5, 0.5]."""
    if not path:
        return data.digits()
    x, y = data.mnist(path).train
    framed = np.pad(x, ((0, 0), (2, 2), (2, 2)), constant_values=-0.5)
    return data.Labelled(framed.reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64), y)


def redrawn(rng: np.random.Generator, y: np.ndarray, share: float) -> np.ndarray:
    """Labels of which this share is drawn anew, from all ten classes."""
    return np.where(rng.random(len(y)) < share, rng.integers(0, 10, len(y)), y)


def stack(runs: list[Any]) -> Any:
    """Trees of runs as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)


def rule_and_price(rule: RuleName, neumann_terms: int, cost: Cost) -> tuple[Rule, int]:
    """How pre-training is differentiated, and the gradient evaluations of an outer step that is."""
    if rule == "unroll":
        return hypergrad.unroll, cost.unrolled
    if neumann_terms:
        return lambda stage: hypergrad.implicit(stage, solvers.neumann(neumann_terms)), cost.implicit(neumann_terms)
    # The leading term alone: Adam takes its scale away, so nobody needs the largest eigenvalue.
    return lambda stage: hypergrad.implicit(stage, solvers.neumann(0, step=1.0)), cost.implicit(0, power=0)


def schedule(config: Steps, share: float = 1.0) -> tuple[int, int, int]:
    """Outer steps before phi moves, while it moves (`share` of those after the warm-up), and after."""
    steps = config.outer_steps - config.warm_up
    moving = max(1, round(share * steps))
    return config.warm_up, moving, steps - moving


def repeat(tree: Any, steps: int) -> Any:
    """The same batch at every step."""
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), tree)


REPORT = {  # panels of `plots.reports`
    "validation loss": ("validation_loss",),
    "norm of the\nhypergradient": ("hypergradient_norm", "indirect_norm", "direct_norm"),
    "pre-training:\nstationarity gap": ("stationarity_gap",),
    "cosine with the\ncheap rule": ("report.agreement",),
    "solve: relative\nresidual": ("report.residual",),
    "solve: contraction\na term": ("report.contraction",),
    "solve: negative\ncurvature met": ("report.negative_curvature",),
}
