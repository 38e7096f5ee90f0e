"""Which of 420 pre-training tasks are worth learning? Task weights on scikit-learn's digits, 20 tasks real, 400 noise.

    metapt run digits_tasks

Every arm pre-trains the same encoder (an MLP with 16 features) for the same number of steps on binary tasks over
images without class labels, then fine-tunes all of it for ten classes on the same few labelled images. The arms differ in the
weights of the tasks: `equal`, `random` (fixed, drawn once), `meta` (learned while pre-training proceeds), `replay`
(pre-training afresh with the weights that `meta` learned), `oracle` (real tasks only); `none` does not pre-train.
The labels that meta-learning uses (train and validation) are those that every arm's final fine-tuning uses, or a part of them.
Curves come from 100 further labelled images; the test images are read once, at the end.

Two minutes on two CPU cores. Expected: gap_closed about 0.97, weight_auc about 0.993 (other seeds vary: README).
Null control, in which learning the weights must do no harm: --noise-tasks 0 --real-tasks 420
Partial fine-tuning access: --access 0.5
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, Settings, comparison, fine_tune_and_score, schedule, stack
from sklearn.metrics import roc_auc_score

from metapt import data, hypergrad, meta, models, recipes, solvers
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome

METHOD = recipes.task_weights.METHOD


@dataclass(frozen=True)
class Config(Settings):
    """Every field can be set on the command line."""

    seeds: int = 8
    """Independent runs, mapped over in parallel: splits, tasks, initial parameters and batches all differ."""
    real_tasks: int = 20
    """Tasks that split the ten classes into two halves."""
    noise_tasks: int = 400
    """Tasks that label each image by a coin."""
    train_labels: int = 50
    """Labelled images for the fine-tuning inside meta-learning."""
    validation_labels: int = 100
    """Labelled images for the loss that the weights minimise."""
    hidden: int = 64
    """Width of the encoder's hidden layer."""
    features: int = 16
    """Width of the encoder's output."""
    finetune_steps: int = 5
    """K, fine-tuning steps of an outer step."""
    neumann_terms: int = 10
    """Terms of the inverse-Hessian series beyond the first."""
    pretrain_lr: float = 2e-3
    """Adam's learning rate in pre-training."""
    finetune_lr: float = 0.3
    """Learning rate of the head (SGD with momentum 0.9), inside meta-learning."""
    meta_lr: float = 0.15
    """Adam's learning rate for the weights' logits at first; along a cosine it comes to 0 half-way."""
    meta_eps: float = 3e-4
    """Adam's epsilon for them: coordinates with smaller hypergradients move in proportion, not at full speed."""
    final_steps: int = 200
    """Steps of the final fine-tuning."""
    final_lr: float = 3e-3
    """Adam's learning rate in the final fine-tuning."""

    def __post_init__(self):
        check_numbers(self, seed=0, noise_tasks=0, neumann_terms=0, warm_up=0, outer_steps=self.warm_up + 1)
        super().__post_init__()
        if round(self.access * min(self.train_labels, self.validation_labels)) < 1:
            raise ValueError(f"access={self.access} leaves meta-learning no image to train on, or none to validate on")

    @property
    def pixels(self) -> int:
        return 64

    def parts(self, rng: np.random.Generator) -> dict[str, data.Labelled]:
        """One seed's images: `train`, `validation`, `monitor`, `pool`, `test`."""
        images = data.digits()
        sizes = {"test": 500, "monitor": 100, "train": self.train_labels, "validation": self.validation_labels}
        sizes["pool"] = max(1, len(images.y) - sum(sizes.values()))
        return {name: images.rows(rows) for name, rows in data.split(rng, len(images.y), sizes).items()}


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    tasks = config.real_tasks + config.noise_tasks
    encoder = models.mlp(config.pixels, (config.hidden, config.features))
    learned = meta.softmax_weights(tasks)
    steps = schedule(config, share=0.5)

    def compose(rule, eps_root=0.0):
        return recipes.task_weights.task_weights(
            encoder=encoder,
            features=config.features,
            tasks=tasks,
            classes=10,
            meta=learned,
            pretrain_optimizer=optax.adam(config.pretrain_lr, eps_root=eps_root),
            finetune_optimizer=optax.sgd(config.finetune_lr, momentum=0.9),
            meta_optimizer=optax.adam(optax.cosine_decay_schedule(config.meta_lr, steps[1]), eps=config.meta_eps),
            rule=rule,
        )

    method = compose(lambda stage: hypergrad.implicit(stage, solvers.neumann(config.neumann_terms)))
    cost = Cost(config.pretrain_steps, config.finetune_steps)

    def fixed(name, weigh, steps=config.outer_steps):
        export = lambda weights, pretrain: {"encoder": pretrain.params["encoder"], "weights": weights}
        context = lambda key, arrays, exports: weigh(key, exports)
        first = method.start_pretrain
        return arms.pretraining(name, method.pretrain_fit, steps, config.pretrain_steps, context, first, export)

    def export_meta(state):
        return {"encoder": state.pretrain.params["encoder"], "weights": learned.constrain(state.phi)}

    oracle = jnp.where(jnp.arange(tasks) < config.real_tasks, tasks / config.real_tasks, 0.0)
    compared = (
        fixed("none", lambda key, exports: jnp.ones(tasks), steps=0),
        fixed("equal", lambda key, exports: jnp.ones(tasks)),
        fixed("random", lambda key, exports: tasks * jax.random.dirichlet(key, jnp.ones(tasks))),
        arms.learning(
            "meta",
            method.algorithm,
            steps,
            (cost.forward, cost.implicit(config.neumann_terms)),
            lambda key, arrays: method.start(key, learned.init(key)),
            export_meta,
            compose=lambda rule: compose(rule, eps_root=1e-12).algorithm,  # unrolling needs it
        ),
        fixed("replay", lambda key, exports: exports["meta"]["weights"]),
        fixed("oracle", lambda key, exports: oracle),
    )
    score = fine_tune_and_score(config, method.finetune_model)

    def judge(encoder, arrays, examples, key):
        params = {**method.finetune_model.init(key), "encoder": encoder}
        return score(params, arrays["labelled"], examples, key)

    return comparison(
        config,
        _arrays(config),
        compared,
        judge,
        baseline="equal",
        summarize=lambda outcome: _figures(config, outcome),
        plots=lambda outcome: _plots(config, outcome),
    )


def _arrays(config: Config):
    """One split and one set of tasks a seed, stacked; test apart."""
    parts_by_seed, tests = [], []
    for seed in range(config.seeds):
        rng = np.random.default_rng([config.seed, seed])
        parts = config.parts(rng)
        pool = parts.pop("pool")
        tests.append(parts.pop("test"))
        labelled = jax.tree.map(lambda *kinds: jnp.concatenate(kinds), parts["train"], parts["validation"])
        seen = {
            name: parts[name].rows(np.arange(round(config.access * len(parts[name].y))))
            for name in ("train", "validation")
        }
        task_labels = data.plant_tasks(rng, np.asarray(pool.y), config.real_tasks, config.noise_tasks)
        parts_by_seed.append({**parts, **seen, "labelled": labelled, "pool": data.Labelled(pool.x, task_labels)})
    return stack(parts_by_seed), stack(tests)


def _figures(config: Config, outcome: Outcome) -> dict[str, Any]:
    """`gap_closed`: (meta - equal) / (oracle - equal); `weight_auc`: weight separates real from noise (None without noise)."""
    mean = {name: float(scores.mean()) for name, scores in outcome.scores.items()}
    weights, real = outcome.exports["meta"]["weights"], _is_real(config)
    if not config.noise_tasks:
        return {"gap_closed": None, "weight_auc": None, "weight_spread": float(weights.std())}
    return {
        "gap_closed": (mean["meta"] - mean["equal"]) / (mean["oracle"] - mean["equal"]),
        "gap_closed_replay": (mean["replay"] - mean["equal"]) / (mean["oracle"] - mean["equal"]),
        "weight_auc": float(np.mean([roc_auc_score(real, by_task) for by_task in weights])),
        "mean_weight_real": float(weights[:, real].mean()),
        "mean_weight_noise": float(weights[:, ~real].mean()),
    }


def _plots(config: Config, outcome: Outcome):
    return {
        "weights": plots.weights(outcome.exports["meta"]["weights"], _is_real(config), "Learned weight of every task"),
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
        "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
    }


def _is_real(config: Config) -> np.ndarray:
    return np.arange(config.real_tasks + config.noise_tasks) < config.real_tasks
