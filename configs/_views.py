"""What the experiments on views of images share: the arms, and linear evaluation on a few labels a class."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import by_level, fit_head, stack

from metapt import data, hypergrad, models, objectives, recipes
from metapt.data import TrainTest
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.experiment import Experiment, Outcome
from metapt.types import Batches, Model, Stage


@dataclass(frozen=True)
class ViewsConfig:
    """Fields of both; each can be set on the command line."""

    seeds: int = 5
    """Independent splits, networks, batches and views."""
    seed: int = 0
    """Of everything random."""
    labels: tuple[int, ...] = (2, 5, 10)
    """Labelled images a class in linear evaluation, one comparison each; the score is their mean."""
    pool: int = 1000
    """Images to pre-train on; those with labels are among them."""
    monitor: int = 200
    """Further ones for the curves."""
    steps: int = 300
    """Pre-training steps."""
    batch: int = 128
    """Images in a batch."""
    lr: float = 1e-3
    """Adam's learning rate."""
    widths: tuple[int, ...] = (16, 32)
    """Channels after each convolution of the encoder."""
    features: int = 64
    """Numbers that the encoder gives."""
    smallest: float = 0.5
    """Share of an image that a crop has at least."""
    flips: float = 0.0
    """Probability of a flip."""
    strength: float = 0.5
    """Of the colour jitter."""
    temperature: float = 0.5
    """Of the contrastive loss."""
    tau: float = 0.99
    """Share of BYOL's target that stays, at the first step."""
    probe_steps: int = 300
    """Steps of linear evaluation."""
    probe_lr: float = 0.05
    """Adam's learning rate in it."""

    def __post_init__(self):
        check_numbers(self, seed=0, flips=0.0, strength=0.0)


def experiment(config: ViewsConfig, images: Callable[[np.random.Generator], TrainTest]) -> Experiment:
    """The arms of the comparison; `images` gives `[N, H, W, C]` in [0, 1], and those of the test."""
    arrays, test = _arrays(config, images)
    size, channels = test.x.shape[-2:]
    encoder = models.relu(models.convnet(size, channels, config.widths, config.features))
    # Nothing is differentiated but the loss.
    how: dict[str, Any] = {"optimizer": optax.adam(config.lr), "rule": hypergrad.detached}
    as_it_is = Model(lambda key: {}, lambda params, x: x)
    view = data.simclr_views(config.smallest, config.flips)

    def simclr(view, **other):
        return recipes.simclr.simclr(encoder, config.features, view, temperature=config.temperature, **how, **other)

    def byol(**other):
        return recipes.byol.byol(encoder, config.features, view, steps=config.steps, tau=config.tau, **how, **other)

    both = byol()
    untied = both.stage._replace(objective=_on_itself(both.stage.objective))
    methods = {
        "none": simclr(view),
        "simclr": simclr(view),
        "simclr_shuffled": simclr(view, second_view=data.of_another(view)),
        "simclr_identical": simclr(lambda context, x, key: x),
        "simclr_no_head": simclr(view, head=as_it_is),
        "byol": both,
        "byol_no_stop": both._replace(stage=untied, fit=hypergrad.detached(untied)),
        "byol_no_predictor": byol(predictor=as_it_is),
    }

    def arm(name, method):
        context = lambda key, arrays, exports: jnp.float32(config.strength)
        export = lambda context, state: {"encoder": state.params["encoder"], "params": state.params}
        steps = 0 if name == "none" else config.steps
        return arms.pretraining(name, method.fit, steps, 1, context, method.start, export)

    def spread(name, params, x):
        """Of unit outputs of the head: about 1 if they go all ways, 0 if all go one."""
        z = methods[name].head(params, encoder.apply(params["encoder"], x))
        return objectives.unit(z).std(axis=0).mean() * z.shape[1] ** 0.5

    def probe(known, unknown, labels, key):
        head = models.linear(known.x.shape[1], 10, zero=True)
        # As scikit-learn's logistic regression with C = 1, but for the bias, which is held too.
        loss = objectives.with_l2(objectives.cross_entropy(objectives.whole(head)), 1 / (20 * labels))
        logits = fit_head(Stage(loss, optax.adam(config.probe_lr)), head, known, unknown.x, key, config.probe_steps)
        return objectives.accuracy(logits, unknown.y)

    def judge(encode, arrays, unknown, key):
        known = data.Labelled(encode(arrays["labelled"].x), arrays["labelled"].y)
        unknown = data.Labelled(encode(unknown.x), unknown.y)
        first = lambda n: jax.tree.map(lambda a: a[: 10 * n], known)
        return jnp.stack([probe(first(n), unknown, n, key) for n in config.labels])

    def figures(outcome: Outcome) -> dict[str, Any]:
        scores = {name: score.T for name, score in outcome.parts.items()}
        flat = lambda arrays, test: judge(lambda x: x.reshape(len(x), -1), arrays, test, jax.random.key(0))
        pixels = jax.vmap(flat)(arrays, test)
        return {
            "by_labels": by_level(scores, config.labels, "none"),
            "pixels": dict(zip(map(str, config.labels), pixels.mean(axis=0).tolist(), strict=True)),
            "spread": {
                name: float(jax.vmap(functools.partial(spread, name))(export["params"], arrays["monitor"].x).mean())
                for name, export in outcome.exports.items()
            },
        }

    return Experiment(
        metric="test accuracy of linear evaluation",
        higher_is_better=True,
        seeds_together=size < 16,  # larger images of all seeds at once leave the cache
        data=arrays,
        test=test,
        draw=lambda arrays, key: Batches(data.draw(key, (arrays["pool"],), 1, config.batch), None, None),
        arms=tuple(arm(name, method) for name, method in methods.items()),
        monitor=lambda params, arrays, key: judge(
            lambda x: encoder.apply(params, x), arrays, arrays["monitor"], key
        ).mean(),
        evaluate=lambda params, arrays, test, key: judge(lambda x: encoder.apply(params, x), arrays, test, key),
        baseline="none",
        summarize=figures,
        plots=lambda outcome: {
            "learning_curves": plots.learning_curves(outcome.curves, "step", "accuracy, held-out images"),
            "accuracy": plots.by_level(
                {name: score.T for name, score in outcome.parts.items()},
                config.labels,
                "labels a class",
                "test accuracy of linear evaluation",
            ),
        },
    )


def _on_itself(objective):
    """BYOL without its stop-gradient: the target is the network itself, and the gradient goes through both."""

    def collapsing(params, context, extra, batch, key):
        network = {name: params[name] for name in extra.params}
        return objective(params, context, extra._replace(params=network), batch, key)

    return collapsing


def _arrays(config: ViewsConfig, images: Callable[[np.random.Generator], TrainTest]):
    """By seed: images to pre-train on, some of them `labelled`, and others to `monitor`. Test apart."""
    runs, tests = [], []
    for seed in range(config.seeds):
        rng = np.random.default_rng([config.seed, seed])
        train, test = images(rng)
        parts = data.split(rng, len(train.y), {"pool": config.pool, "monitor": config.monitor})
        pool = train.rows(parts["pool"])
        known = data.balanced(rng, np.asarray(pool.y), 10 * max(config.labels))
        order = np.argsort(np.asarray(pool.y)[known], kind="stable").reshape(10, -1).T.ravel()  # all classes in turn
        runs.append({"pool": pool.x, "labelled": pool.rows(known[order]), "monitor": train.rows(parts["monitor"])})
        tests.append(test)
    return stack(runs), stack(tests)
