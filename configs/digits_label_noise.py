"""Which labels are wrong? A network that weighs every pre-training example, learned by gradient, on scikit-learn's digits.

    metapt run digits_label_noise

20, 40 and 60 % of the pre-training labels are replaced by a wrong class; the few fine-tuning labels are right. Five seeds at
each level make fifteen runs. The weighing network (thousands of parameters) sees what an averaged copy of the pre-trained network
makes of image and label, and faintly these two. What is pre-trained is a layer on the images' wavelet scattering. Arms: no
pre-training (`none`), equal weights (`equal`), weights learned while pre-training proceeds (`meta`), pre-training afresh with the
weights that `meta` ended with (`replay`), wrong labels left out (`oracle`). Curves come from further labelled images; the test
images are read once, at the end.

Two minutes on one CPU core. Expected: weight_auc above 0.99 in every run, median weight_ratio 91,000, 760 and 290 at the three
levels, `meta` 0.008, 0.031 and 0.062 above `equal`.
Null control, in which nothing must be lost: --noise 0
Partial fine-tuning access: --access 0.2, or --access-classes 5. Other ways to the weights, at equal compute: --variants
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, comparison, fine_tune_and_score, schedule, stack
from _images import ImageConfig, implicit, other_ways, parts
from jax.tree_util import Partial
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from metapt import data, meta, models, recipes
from metapt.data import Labelled, TrainTest
from metapt.io import arms, plots, stats
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.types import Model

METHOD = recipes.example_weights.METHOD
EVENNESS = 0.6  # principal components have their standard deviation to this power: at 1 as they are, at 0 all alike


@dataclass(frozen=True)
class Config(ImageConfig):
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent splits, networks and wrong labels at each level of noise."""
    noise: tuple[float, ...] = (0.2, 0.4, 0.6)
    """Shares of the pre-training labels that are wrong: uniform over the other classes."""
    pool: int = 1000
    """Images to pre-train on."""
    warm_up: int = 5
    """Outer steps at equal weights before learning begins: wrong labels must not be learned by heart first."""
    monitor: int = 90
    """Labelled images for the curves."""
    batch: int = 256
    """Images in a pre-training batch."""
    pretrain_lr: float = 3e-3
    """Adam's learning rate in pre-training."""
    hidden: int = 400
    """Principal components of the images' scattering coefficients, which the encoder's layer is trained on."""
    l2: float = 1e-2
    """Penalty on the parameters in pre-training."""
    teacher_decay: float = 0.98
    """Of the averaged network, at every step of pre-training."""
    critic: int = 40
    """Width of the weighing network."""
    power: float = 12.0
    """Of the sigmoid in the weights: the larger, the further they part right from wrong."""
    changing: bool = True
    """Which of the labelled images are of which kind changes at every outer step: no single validation set can be fitted."""
    meta_lr: float = 1e-2
    """Adam's learning rate for the weighing network at first; along a cosine it comes to 0."""
    meta_share: float = 0.3
    """Share of the learning steps after which it is 0."""

    def __post_init__(self):
        super().__post_init__()
        if not self.noise or max(self.noise) >= 0.9:
            raise ValueError(f"noise={self.noise} must name levels from 0 to below 0.9 (where labels say nothing)")
        if self.teacher_decay >= 1 or self.meta_share > 1:
            raise ValueError(
                f"teacher_decay={self.teacher_decay} must be below 1, meta_share={self.meta_share} at most 1"
            )

    def least(self) -> dict[str, float]:
        return super().least() | {"noise": 0.0, "l2": 0.0}

    def images(self, rng: np.random.Generator) -> TrainTest:
        """As features: a layer on them errs less than a network on pixels, so what it makes of a label tells more."""
        return scattered(super().images(rng), margin=4, scales=2, count=self.hidden)

    def encoder(self) -> Model:
        """One layer: scattering is nonlinear enough, and wrong labels are not so soon learned by heart."""
        return models.mlp(self.hidden, (self.features,))


def scattered(images: TrainTest, margin: int, scales: int, count: int) -> TrainTest:
    """The first principal components of the images' logarithmic scattering coefficients; fitted to the training images."""

    def coefficients(x):
        framed = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
        return np.log(0.01 + np.asarray(data.scattering(framed.astype(np.float32), scales))).reshape(len(x), -1)

    train = coefficients(images.train.x)
    if count > min(train.shape):
        raise ValueError(
            f"hidden={count} must be at most {min(train.shape)}: {len(train)} images have {train.shape[1]} coefficients"
        )
    scaler = StandardScaler().fit(train)
    pca = PCA(count, whiten=True, random_state=0).fit(scaler.transform(train))
    spread = pca.explained_variance_ ** (EVENNESS / 2)
    components = lambda x: (pca.transform(scaler.transform(x)) * spread).astype(np.float32)
    return TrainTest(
        Labelled(components(train), images.train.y), Labelled(components(coefficients(images.test.x)), images.test.y)
    )


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    model = models.with_head(config.encoder(), models.linear(config.features, 10))
    critic = models.label_critic(model, config.hidden, classes=10, hidden=config.critic)
    learned = meta.relative_example_weights(critic, config.power)

    def compose(meta_lr, rule=implicit(config), **how):
        return recipes.example_weights.example_weights(
            model,
            learned,
            view=lambda context, x, key: x,
            l2=config.l2,
            teacher_decay=config.teacher_decay,
            pretrain_optimizer=optax.adam(config.pretrain_lr, eps_root=1e-12),
            finetune_optimizer=optax.sgd(config.finetune_lr),
            meta_optimizer=optax.adam(meta_lr),
            rule=rule,
            **how,
        )

    steps = schedule(config, config.meta_share)
    pieces = compose(optax.cosine_decay_schedule(config.meta_lr, steps[1]))

    def start(pieces):
        return lambda key, arrays: pieces.start(key, learned.init(key))

    def fixed(name, weigh, steps=config.outer_steps):
        finish = lambda weigh, pretrain: {"encoder": pretrain.extra}
        context = lambda key, arrays, exports: weigh(exports)
        first = pieces.start_pretrain
        return arms.pretraining(name, pieces.pretrain_fit, steps, config.pretrain_steps, context, first, finish)

    export = lambda state: {"encoder": state.pretrain.extra, "phi": state.phi}

    # What each arm's weights are, as functions of (batch, teacher): a batch is (image, label, whether the label is right).
    equal = Partial(lambda batch, teacher: jnp.ones(len(batch[1])))
    oracle = Partial(lambda batch, teacher: batch[2] * len(batch[1]) / jnp.maximum(batch[2].sum(), 1.0))
    last = Partial(lambda phi, teacher, batch, _: learned.constrain(phi)(batch, teacher))
    cost = Cost(config.pretrain_steps, config.finetune_steps)
    prices = cost.forward, cost.implicit(config.neumann_terms)
    compared = (
        fixed("none", lambda exports: equal, steps=0),
        fixed("equal", lambda exports: equal),
        arms.learning(
            "meta",
            pieces.algorithm,
            steps,
            prices,
            start(pieces),
            export,
            compose=lambda rule: compose(config.meta_lr, rule).algorithm,
        ),
        fixed("replay", lambda exports: Partial(last, exports["meta"]["phi"], exports["meta"]["encoder"])),
        fixed("oracle", lambda exports: oracle),
    )
    if config.variants:
        budget = arms.gradient_evaluations(compared)["meta"]
        compared += (fixed("equal_longer", lambda exports: equal, budget // config.pretrain_steps),)
        compared += other_ways(config, budget, compose, start, export, config.meta_lr, box=None)
    arrays, test = _arrays(config)
    judge = fine_tune_and_score(config, model)
    return comparison(
        config,
        (arrays, test),
        compared,
        lambda params, arrays, examples, key: judge(params, arrays["labelled"], examples, key),
        baseline="equal",
        summarize=lambda outcome: _figures(config, compared, model, learned, arrays["pool"], outcome),
        plots=lambda outcome: _plots(config, learned, arrays["pool"], outcome),
    )


def _arrays(config: Config):
    """Splits by seed, the same at every level of noise; runs are ordered by level, then by seed. Test apart."""
    runs, tests = [], []
    for seed in range(config.seeds):
        rng = np.random.default_rng([config.seed, seed])
        arrays, test = parts(config, rng, config.pool, config.monitor)
        pool = arrays["pool"]
        luck, other = rng.random(config.pool), (pool.y + rng.integers(1, 10, config.pool)) % 10
        for level in config.noise:
            y = np.where(luck < level, other, pool.y).astype(np.int32)
            runs.append({**arrays, "pool": (pool.x, y, (luck >= level).astype(np.float32))})
            tests.append(test)
    by_level = [i for level in range(len(config.noise)) for i in range(level, len(runs), len(config.noise))]
    return stack([runs[i] for i in by_level]), stack([tests[i] for i in by_level])


def weigh_pool(learned, pool, export) -> np.ndarray:
    """The learned weight of every pre-training example, `[runs, N]`; over a run their mean is 1."""
    weigh = jax.jit(jax.vmap(lambda phi, teacher, batch: learned.constrain(phi)(batch, teacher)))
    return np.asarray(weigh(export["phi"], export["encoder"], pool), float)


def _figures(config: Config, compared, model, learned, pool, outcome: Outcome) -> dict[str, Any]:
    """`weight_ratio`: mean weight of right over mean weight of wrong labels; `weight_auc`: the weight tells right from wrong.

    `wrong_labels_believed`: the share of them that the pre-trained network itself predicts.
    """
    right = np.asarray(pool[2]) > 0.5
    classify = jax.jit(jax.vmap(lambda params, x: model.apply(params, x).argmax(axis=-1)))

    agrees = {
        name: np.asarray(classify(outcome.exports[name]["encoder"], pool[0])) == np.asarray(pool[1])
        for name in ("equal", "meta", "oracle")
    }

    def separation(name):
        weights = weigh_pool(learned, pool, outcome.exports[name])
        ratios: list[float | None] = []
        areas: list[float | None] = []
        for w, r in zip(weights, right, strict=True):
            noisy = not r.all()
            ratios.append(float(w[r].mean() / w[~r].mean()) if noisy else None)
            areas.append(float(roc_auc_score(r, w)) if noisy else None)
        return ratios, areas

    ratio, auc = separation("meta")
    by_level = {}
    for i, level in enumerate(config.noise):
        these = slice(i * config.seeds, (i + 1) * config.seeds)
        against = {
            name: stats.paired(outcome.scores[name][these], outcome.scores["equal"][these])
            for name in ("meta", "replay", "oracle")
        }
        by_level[str(level)] = {name: float(score[these].mean()) for name, score in outcome.scores.items()} | {
            f"{name}_minus_equal": row for name, row in against.items()
        }
        if not right[these].all():
            believed = {name: float(same[these][~right[these]].mean()) for name, same in agrees.items()}
            by_level[str(level)]["wrong_labels_believed"] = believed
    figures = {
        "noise_level": [level for level in config.noise for _ in range(config.seeds)],
        "weight_ratio": ratio,
        "weight_auc": auc,
        "by_noise_level": by_level,
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
    if config.variants:
        names = [name for name, export in outcome.exports.items() if "phi" in export]
        figures["weight_auc_by_arm"] = {name: separation(name)[1] for name in names}
    return figures


def _plots(config: Config, learned, pool, outcome: Outcome):
    weights, right = weigh_pool(learned, pool, outcome.exports["meta"]), np.asarray(pool[2]) > 0.5
    return {
        "weights": plots.example_weights(weights, right, np.repeat(config.noise, config.seeds)),
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", "accuracy on held-out images"),
        "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
    }
