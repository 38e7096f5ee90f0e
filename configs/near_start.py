"""How strongly is fine-tuning to be held near the network that it began with? On scikit-learn's digits, five labels a class.

    metapt run near_start

A network is pre-trained on upright digits. Its encoder is fine-tuned, with a new head, to tell other digits, which are turned:
by 0 degrees the encoder is right as it is, by 45 it is of little use. Arms: nothing holds the encoder (`plain`); a given strength
holds it near 0 (`decay`) or near where it began (`l2_sp`); strengths learned by the loss on some of the labels that the other
arms are trained on, split anew for every move: `decay_learned`, `l2_sp_learned`, `fisher_learned` (parameters count by their
Fisher information on the pre-training images), `group_lasso_learned` (what makes one output of a layer stays where it began, or
moves), `elsewhere_learned` (near a random network: a null control). In the end every arm is fine-tuned on all labels for the
same steps.

Some minutes of one CPU core. Expected at 0 degrees: `l2_sp` 0.029 above `plain`, those with learned strengths 0.027 to 0.030,
`elsewhere_learned` below; at 45 degrees `l2_sp` loses 0.066, `l2_sp_learned` 0.018.
On MNIST, shrunk to 8 x 8 pixels: --data FOLDER --pool 5000
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import by_level, repeat, small_images, stack

from metapt import data, hypergrad, models, objectives, recipes, stages
from metapt.data import Labelled
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Arm, Experiment, Outcome
from metapt.objectives import StartPoint
from metapt.types import Batches, Stage

METHOD = recipes.l2_sp.METHOD


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent splits, networks and batches at each angle."""
    seed: int = 0
    """Of everything random."""
    data: str = ""
    """A folder or an .npz file with MNIST, shrunk to 8 x 8 pixels; without it the digits."""
    turn: tuple[float, ...] = (0.0, 45.0)
    """Angles, in degrees, of the images that the network is fine-tuned on."""
    pool: int = 900
    """Upright images to pre-train on."""
    train_labels: int = 50
    """Turned images to fine-tune on, a multiple of 10."""
    validation_labels: int = 20
    """How many of those a move of the strengths sets aside, a multiple of 10."""
    test: int = 700
    """Turned images for the result."""
    hidden: int = 64
    """Width of both hidden layers."""
    pretrain_steps: int = 300
    """Steps of pre-training; 0: a null control, the network is random."""
    pretrain_lr: float = 3e-3
    """Adam's learning rate in pre-training."""
    batch: int = 64
    """Images in a pre-training batch."""
    steps: int = 800
    """Steps of the final fine-tuning, each on all labels."""
    lr: float = 0.05
    """SGD's learning rate in fine-tuning."""
    momentum: float = 0.9
    """And its momentum."""
    decay: float = 1e-4
    """Strength of `decay`."""
    strength: float = 0.1
    """Strength of `l2_sp`, and of the learned ones at first (those of the group lasso: a hundredth)."""
    head_strength: float = 0.01
    """Decay of the head, in all arms."""
    outer_steps: int = 20
    """Moves of a learned strength."""
    finetune_steps: int = 100
    """K, steps of the fine-tuning inside meta-learning."""
    meta_lr: float = 0.5
    """Adam's learning rate for the logarithm of a strength."""

    def __post_init__(self):
        check_numbers(self, seed=0, turn=-360.0, pretrain_steps=0, momentum=0.0)
        if self.validation_labels >= self.train_labels:
            raise ValueError(
                f"validation_labels={self.validation_labels} must be below train_labels={self.train_labels}"
            )


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    encoder = models.relu(models.mlp(64, (config.hidden, config.hidden)))
    model = models.with_head(encoder, models.linear(config.hidden, 10))
    strengths = lambda phi: {"encoder": config.strength * jnp.exp(phi), "head": config.head_strength}
    held = recipes.l2_sp.l2_sp(
        model,
        optax.sgd(config.lr, momentum=config.momentum),
        config.lr / (1 - config.momentum),
        optax.adam(optax.cosine_decay_schedule(config.meta_lr, config.outer_steps)),
        strengths,
    )
    pretrain = Stage(objectives.cross_entropy(objectives.whole(model)), optax.adam(config.pretrain_lr))
    zero = optax.tree.zeros_like

    def unit(params, encoder, squares=1.0, groups=0.0):
        """What holds a network at strength 1; written out for every leaf, so that the arms share their programs."""
        parts = {"encoder": squares, "head": 1.0}, {"encoder": groups, "head": 0.0}
        return StartPoint({"encoder": encoder, "head": zero(params["head"])}, *parts).scaled(jnp.ones(()))

    def export(params, held_by, phi):
        return {"encoder": {"params": params, "held_by": held_by, "phi": jnp.asarray(phi, jnp.float32)}}

    def begin(fresh, state):  # of a random network the new head is kept, and the encoder for `elsewhere_learned`
        params = {"encoder": state.params["encoder"], "head": fresh["head"]}
        return export(params, unit(params, params["encoder"]), -jnp.inf) | {"pretrained": state.params, "random": fresh}

    def fixed(name, alpha, point):
        def init(key, arrays, exports):
            params = exports["plain"]["encoder"]["params"]
            return params, unit(params, point(params["encoder"])), jnp.log(alpha / config.strength)

        return Arm(name, init, (), lambda state: export(*state))

    moves = arms.learning(
        "moves",
        held.algorithm,
        (0, config.outer_steps, 0),
        (0, Cost(0, config.finetune_steps).unrolled),
        lambda key, arrays: None,  # pyright: ignore[reportArgumentType] every arm starts in its own way
        lambda state: export(state.pretrain.params, state.pretrain.extra, state.phi),
        lambda state, batches: {"strength": strengths(state.phi)["encoder"]},
        draw=lambda arrays, key: _fold(config, arrays["labelled"], key),
    )

    def learned(name, made):  # one algorithm: the arms differ in their state alone
        def init(key, arrays, exports):
            params = exports["plain"]["encoder"]["params"]
            return held.start(params, unit(params, *made(params["encoder"], exports["plain"], arrays)), jnp.zeros(()))

        return moves._replace(name=name, init=init)

    compared = (
        arms.pretraining(
            "plain",
            hypergrad.detached(pretrain),
            config.pretrain_steps,
            1,
            lambda key, arrays, exports: model.init(jax.random.fold_in(key, 1)),
            lambda key: stages.start_model(pretrain, model, key),
            begin,
            lambda arrays, key: Batches(data.draw(key, arrays["pool"], 1, config.batch), None, None),
        ),
        fixed("decay", config.decay, zero),
        fixed("l2_sp", config.strength, lambda encoder: encoder),
        learned("decay_learned", lambda encoder, exports, arrays: (zero(encoder),)),
        learned("l2_sp_learned", lambda encoder, exports, arrays: (encoder,)),
        learned(
            "fisher_learned", lambda encoder, exports, arrays: (encoder, _fisher(model, exports["pretrained"], arrays))
        ),
        learned("group_lasso_learned", lambda encoder, exports, arrays: (encoder, 0.0, 0.01)),
        learned("elsewhere_learned", lambda encoder, exports, arrays: (exports["random"]["encoder"],)),
    )

    def tuned(made, labelled, steps, key):
        state, context = held.begin(made["params"], made["held_by"], strengths(made["phi"]))
        return held.fit(state, context, repeat(labelled, steps), key)[0].params

    def score(made, labelled, examples, steps, key):
        return objectives.accuracy(model.apply(tuned(made, labelled, steps, key), examples.x), examples.y)

    def kept(made, pretrained, arrays, key):
        """Accuracy on upright images of the old head on the fine-tuned encoder; share of units that never moved."""
        encoder, upright = tuned(made, arrays["labelled"], config.steps, key)["encoder"], arrays["upright"]
        right = objectives.accuracy(model.apply({**pretrained, "encoder": encoder}, upright.x), upright.y)
        leaves = zip(*map(jax.tree.leaves, (encoder, made["params"]["encoder"])), strict=True)
        return right, jnp.concatenate([(a == b).all(0) for a, b in leaves if a.ndim > 1]).mean()

    arrays, test = _arrays(config)
    return Experiment(
        metric="accuracy on turned images after fine-tuning",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(None, None, None),
        arms=compared,
        monitor=lambda made, arrays, key: score(
            made, arrays["labelled"], arrays["monitor"], config.finetune_steps, key
        ),
        evaluate=lambda made, arrays, test, key: score(made, arrays["labelled"], test, config.steps, key),
        baseline="plain",
        summarize=lambda outcome: _figures(config, compared, kept, arrays, outcome),
        plots=lambda outcome: {
            "accuracy": plots.by_level(
                {name: _levels(config, scores) for name, scores in outcome.scores.items()},
                config.turn,
                "degrees that the images are turned",
                "accuracy",
            )
        },
    )


def _arrays(config: Config):
    """Splits by seed, the same at every angle; runs are ordered by angle, then by seed. Test apart."""
    images, runs, tests = small_images(config.data), [], []
    turn = jax.jit(jax.vmap(data.rotate, in_axes=(0, None)))
    for angle in config.turn:
        turned = turn(np.reshape(images.x, (-1, 8, 8)) + 0.5, angle).reshape(-1, 64) - 0.5
        examples = Labelled(np.asarray(turned), images.y)
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            labelled = data.balanced(rng, np.asarray(images.y), config.train_labels)
            rest = rng.permutation(np.setdiff1d(np.arange(len(images.y)), labelled))
            short = config.pool + config.test + 100 - len(rest)
            if short > 0:
                raise ValueError(
                    f"pool={config.pool} must be at most {config.pool - short}: the data have no more images"
                )
            pool, judged, monitor = np.split(rest, [config.pool, config.pool + config.test])
            by_class = labelled[np.argsort(images.y[labelled], kind="stable")]  # `_fold` wants them in order
            parts = {"labelled": examples.rows(by_class), "monitor": examples.rows(monitor[:100])}
            runs.append({**parts, "pool": images.rows(pool), "upright": images.rows(judged)})
            tests.append(examples.rows(judged))
    return stack(runs), stack(tests)


def _fold(config: Config, labelled: Labelled, key: jax.Array) -> Batches:
    """The labels, split anew: equally many of each class to train on and to judge by."""
    of_class, aside = config.train_labels // 10, config.validation_labels // 10
    order = jnp.argsort(jax.random.uniform(key, (10, of_class)), axis=1) + of_class * jnp.arange(10)[:, None]
    rows = lambda index: jax.tree.map(lambda a: a[index.ravel()], labelled)
    judged, seen = rows(order[:, :aside]), rows(order[:, aside:])
    return Batches(None, repeat(seen, config.finetune_steps), judged)


def _fisher(model, params, arrays):
    """Of the encoder, on average 1, so that strengths compare."""
    found = objectives.fisher_diagonal(model.apply, params, arrays["pool"].x)["encoder"]
    mean = optax.tree.sum(found) / optax.tree.size(found)
    return jax.tree.map(lambda f: f / mean, found)


def _levels(config: Config, values: np.ndarray) -> np.ndarray:
    """`[runs, ...] -> [angles, seeds, ...]`."""
    return values.reshape(len(config.turn), config.seeds, *values.shape[1:])


def _figures(config: Config, compared, kept, arrays, outcome: Outcome) -> dict[str, Any]:
    """By angle: accuracies against `plain` and against `decay_learned`, `strength` (geometric mean), what the old head keeps."""
    scores = {name: _levels(config, score) for name, score in outcome.scores.items()}
    keys = jax.random.split(jax.random.key(config.seed), len(config.turn) * config.seeds)
    look = jax.jit(jax.vmap(kept))
    pretrained = outcome.exports["plain"]["pretrained"]
    found = {name: look(export["encoder"], pretrained, arrays, keys) for name, export in outcome.exports.items()}
    mean = lambda values: dict(
        zip(map(str, config.turn), _levels(config, np.asarray(values)).mean(1).tolist(), strict=True)
    )
    return {
        "by_turn": by_level(scores, config.turn, "plain"),
        "against_decay_learned": by_level(scores, config.turn, "decay_learned"),
        "log10_strength": {
            name: mean((export["encoder"]["phi"] / np.log(10)) + np.log10(config.strength))
            for name, export in outcome.exports.items()
            if name != "plain"
        },
        "old_head": {name: mean(right) for name, (right, _) in found.items()},
        "unmoved_units": {name: mean(still) for name, (_, still) in found.items()},
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
