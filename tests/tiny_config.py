"""A config of a second: weights of three regression tasks, one of them worth learning, with faults on demand."""

import functools
import os
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from metapt import Batches, Stage, data, hypergrad, meta_pretraining, recipes, solvers, stages, updates
from metapt.io import arms
from metapt.io.configs import check_numbers
from metapt.io.experiment import Experiment

METHOD = recipes.task_weights.METHOD
FAULTS = ("batch", "loss", "gradient", "hypergradient")


@dataclass(frozen=True)
class Config:
    """Every field can be set on the command line."""

    seeds: int = 2
    seed: int = 0
    outer_steps: int = 40
    pretrain_steps: int = 2
    finetune_steps: int = 1
    batch: int = 16
    faults: tuple[str, ...] = ("none",)
    """A seed's own, or one for all: `kind:share of the steps:value`, for example `batch:0.1:nan`."""

    def __post_init__(self):
        check_numbers(self, seed=0, outer_steps=10)
        if {fault.split(":")[0] for fault in self.faults} - {"none", *FAULTS}:
            raise ValueError(f"faults={self.faults} must be none or of {', '.join(FAULTS)}")


def experiment(config: Config) -> Experiment:
    pretrain = Stage(_pretrain, optax.adam(0.05))
    finetune = Stage(_finetune, optax.sgd(0.2))
    fit = hypergrad.implicit(pretrain, solvers.neumann(2, step=0.2))
    algorithm = meta_pretraining(
        fit,
        hypergrad.unroll(finetune),
        _validate,
        updates.by_gradient(optax.adam(0.1)),
        constrain=lambda phi: 3 * jax.nn.softmax(phi),
        transfer=stages.transfer_encoder,
        warm_start=False,
    )
    params = {"encoder": jnp.zeros(4)}
    start = lambda phi: algorithm.init(phi, stages.start(pretrain, params), stages.start(finetune, params))
    equal = arms.pretraining(
        "equal",
        fit,
        config.outer_steps,
        config.pretrain_steps,
        lambda key, arrays, exports: jnp.ones(3),
        lambda key: stages.start(pretrain, params),
        lambda weights, state: {"encoder": state.params["encoder"], "weights": weights},
    )
    learned = arms.learning(
        "meta",
        algorithm,
        (2, config.outer_steps - 4, 2),
        (4, 10),
        lambda key, arrays: start(jnp.zeros(3)),
        lambda state: {"encoder": state.pretrain.params["encoder"], "weights": jax.nn.softmax(state.phi)},
    )
    arrays, test = _arrays(config)
    return Experiment(
        metric="squared error",
        higher_is_better=False,
        data=arrays,
        test=test,
        draw=functools.partial(_draw, config),
        arms=(equal, learned),
        monitor=lambda encoder, arrays, key: _error(encoder, arrays["validation"]),
        evaluate=lambda encoder, arrays, test, key: _error(encoder, test),
        baseline="equal",
        summarize=lambda outcome: {"weights": outcome.exports["meta"]["weights"].mean(0).tolist()},
        plots=_plots,
    )


def _arrays(config):
    """Tasks of one truth, the opposite truth, and noise; the truth again for fine-tuning, validation and test."""
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=(config.seeds, 300, 4)).astype(np.float32)
    truth = rng.normal(size=(config.seeds, 4, 1)).astype(np.float32)
    right = (x @ truth)[..., 0]
    y = np.stack([right, -right, rng.normal(size=right.shape)], axis=-1).astype(np.float32)
    part = lambda a, b: data.Labelled(jnp.asarray(x[:, a:b]), jnp.asarray(right[:, a:b]))
    pool = data.Labelled(jnp.asarray(x[:, :200]), jnp.asarray(y[:, :200]))
    arrays = {"pool": pool, "train": part(200, 220), "validation": part(220, 250), "faults": _faults(config)}
    return arrays, part(250, 300)


def _faults(config):
    """kind -> share of the steps `[seeds]`; and the value `[seeds]`, 1 for NaN and 2 for infinity, as data must be finite."""
    faults = [(fault + ":0:0").split(":")[:3] for fault in config.faults]
    faults = faults * config.seeds if len(faults) == 1 else faults
    shares = {kind: jnp.array([float(share) * (kind == name) for name, share, _ in faults]) for kind in FAULTS}
    return shares, jnp.array([["0", "nan", "inf"].index(value) for _, _, value in faults])


def _draw(config, arrays, key):
    draw_key, fault_key, validation_key = jax.random.split(key, 3)
    shares, value = arrays["faults"]
    value = jnp.array([0.0, jnp.nan, jnp.inf])[value]
    hit = lambda key, shape, kind: jnp.where(jax.random.bernoulli(key, shares[kind], shape), value, 0.0)
    batch = data.draw(draw_key, arrays["pool"], config.pretrain_steps, config.batch)
    steps = (config.pretrain_steps,)
    x = batch.x + hit(fault_key, steps, "batch")[:, None, None]
    faults = {kind: hit(fault_key, steps, kind) for kind in ("loss", "gradient")}
    finetune = jax.tree.map(lambda a: jnp.broadcast_to(a, (config.finetune_steps, *a.shape)), arrays["train"])
    return Batches((x, batch.y, faults), finetune, (arrays["validation"], hit(validation_key, (), "hypergradient")))


def _pretrain(params, weights, extra, batch, key):
    x, y, faults = batch
    losses = jnp.mean(((x @ params["encoder"])[:, None] - y) ** 2, axis=0)
    loss = losses @ weights / 3 + faults["loss"]
    # The slope of a root at 0 is not finite, its value is.
    root = jnp.sqrt(jnp.where(faults["gradient"] == 0, 1.0, 0.0) + 0 * params["encoder"].sum())
    return loss + root, extra


def _finetune(params, context, extra, batch, key):
    return _error(params["encoder"], batch), extra


def _validate(params, context, extra, batch, key):
    labelled, fault = batch
    return _error(params["encoder"], labelled) + fault * params["encoder"].sum(), extra


def _error(encoder, labelled):
    return jnp.mean((labelled.x @ encoder - labelled.y) ** 2)


def _plots(outcome):
    time.sleep(float(os.environ.get("TINY_PLOT_SECONDS", "0")))  # so that a moment can fall into the report
    figure = Figure()
    figure.subplots().plot([at for at, _ in outcome.curves["meta"]])
    return {"curve": figure}
