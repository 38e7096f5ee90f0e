"""How sensitive is learning task weights to P, K, the terms, the solver and the meta learning rate?

    python benchmarks/sensitivity.py [--out DIR]

Planted tasks on scikit-learn's digits, as `configs/digits_tasks.py` but smaller: 10 real tasks, 100 noise tasks, an MLP
64-16-8. The online algorithm learns one weight a task; the outcome is the area under the ROC curve of "the weight tells
real from noise", mean over 4 seeds (splits, tasks, parameters, batches). Every run takes the same number of pre-training
steps, 500, of which the first 100 are at equal weights: with P steps an outer step, the meta-parameters move 400 / P times.

Around one default (P = 5, K = 5, Neumann with 10 terms) one thing changes at a time, each at every meta learning rate.
Seeds and meta learning rates run as one program. Prints a table and writes `sensitivity.png`. Six minutes of one CPU core.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from metapt import algorithm, data, hypergrad, meta, models, recipes, solvers
from metapt.types import Batches, Solve

SEEDS, REAL, NOISE = 4, 10, 100
PRETRAIN_STEPS, WARM_UP, BATCH = 500, 100, 64
LEARNED = meta.softmax_weights(REAL + NOISE)
META_LRS = (0.01, 0.03, 0.1, 0.3)
DEFAULT = {"P": 5, "K": 5, "solver": "neumann 10"}
SOLVERS: dict[str, Solve] = {f"neumann {terms}": solvers.neumann(terms) for terms in (0, 3, 10, 30)} | {
    "cg 10": solvers.cg(10),
    "cg 10, damping 0.001": solvers.cg(10, damping=0.001),
    "cg 10, damping 0.01": solvers.cg(10, damping=0.01),
    "normal_cg 10, ridge 1e-6": solvers.from_jaxopt("normal_cg", ridge=1e-6, maxiter=10),
}
PANELS = {
    "Neumann terms": {name.split()[1]: {"solver": name} for name in SOLVERS if name.startswith("neumann")},
    "P, pre-training steps of an outer step": {str(P): {"P": P} for P in (1, 2, 5, 10, 20)},
    "K, fine-tuning steps": {str(K): {"K": K} for K in (1, 2, 5, 10, 20)},
    "solver": {name: {"solver": name} for name in SOLVERS if name == "neumann 10" or "neumann" not in name},
}


def arrays(seed: int) -> Batches:
    """The examples of one seed: a pool with task labels, few class labels, and those that validate."""
    images, y = map(np.asarray, data.digits())
    rng = np.random.default_rng(seed)
    rows = data.split(rng, len(y), {"pool": len(y) - 150, "train": 50, "validation": 100})
    tasks = data.plant_tasks(rng, y[rows["pool"]], REAL, NOISE)
    few = [data.Labelled(images[rows[name]], y[rows[name]]) for name in ("train", "validation")]
    return Batches(data.Labelled(images[rows["pool"]], tasks), *few)


def build(solver: str) -> recipes.Pieces:
    """The method; its meta learning rate is set in the state, so that it can be an array."""
    return recipes.task_weights.task_weights(
        encoder=models.mlp(64, (16, 8)),
        features=8,
        tasks=REAL + NOISE,
        classes=10,
        meta=LEARNED,
        pretrain_optimizer=optax.adam(2e-3),
        finetune_optimizer=optax.sgd(0.3, momentum=0.9),
        meta_optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.1, eps=3e-4),
        rule=lambda stage: hypergrad.implicit(stage, SOLVERS[solver]),
    )


def learned_weights(method: recipes.Pieces, P: int, K: int, meta_lr, examples: Batches, key):
    """The weights after PRETRAIN_STEPS steps of online pre-training, `[tasks]`."""

    def draw(key):
        train = jax.tree.map(lambda a: jnp.broadcast_to(a, (K, *a.shape)), examples.finetune)
        return Batches(data.draw(key, examples.pretrain, P, BATCH), train, examples.validation)

    model_key, run_key = jax.random.split(key)
    state = method.start(model_key, LEARNED.init(key))
    state.update.hyperparams["learning_rate"] = meta_lr
    warm, total = WARM_UP // P, PRETRAIN_STEPS // P
    state, _ = algorithm.run(method.algorithm.warm_up, draw, state, run_key, jnp.arange(warm))
    state, _ = algorithm.run(method.algorithm.step, draw, state, run_key, jnp.arange(warm, total))
    return LEARNED.constrain(state.phi)


def weight_auc(examples: Batches, keys, P: int, K: int, solver: str) -> np.ndarray:
    """`[meta learning rates, seeds]`."""
    run = functools.partial(learned_weights, build(solver), P, K)
    by_seed = jax.vmap(run, in_axes=(None, 0, 0))
    weights = jax.jit(jax.vmap(by_seed, in_axes=(0, None, None)))(jnp.array(META_LRS), examples, keys)
    real = np.arange(REAL + NOISE) < REAL
    # A run that diverged tells nothing apart.
    score = lambda w: roc_auc_score(real, w) if np.isfinite(w).all() else 0.5
    return np.array([[score(w) for w in seeds] for seeds in np.asarray(weights)])


def draw_figure(means: dict[str, dict[str, np.ndarray]]) -> Figure:
    """One heat map a panel, the values in the cells."""
    figure = Figure(figsize=(10.5, 7.6), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(2, 2).flat, means.items(), strict=True):
        values = np.stack(list(rows.values()))
        axes.imshow(values, vmin=0.5, vmax=1.0, cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.75 else "white")
        axes.set_xticks(range(len(META_LRS)), map(str, META_LRS))
        axes.set_yticks(range(len(rows)), [name.replace(", ", "\n") for name in rows])
        axes.set(title=title, xlabel="meta learning rate")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.suptitle(f"Area under the ROC curve of the weights, real against noise tasks (mean of {SEEDS} seeds)")
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    out = parser.parse_args().out

    examples = jax.tree.map(lambda *seeds: jnp.stack(seeds), *map(arrays, range(SEEDS)))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    print(f"{'setting':45}" + "".join(f"{f'lr {lr}':>15}" for lr in META_LRS) + f"{'seconds':>9}", flush=True)
    means, known = {}, {}
    for title, rows in PANELS.items():
        means[title] = {}
        for name, change in rows.items():
            setting = DEFAULT | change
            where = tuple(setting.values())  # the default stands in every panel
            if where not in known:
                began = time.monotonic()
                known[where] = weight_auc(examples, keys, **setting)
                error = known[where].std(1, ddof=1) / SEEDS**0.5
                cells = "".join(f"{m:9.3f} ±{e:.3f}" for m, e in zip(known[where].mean(1), error, strict=True))
                label = f"P {setting['P']}, K {setting['K']}, {setting['solver']}"
                print(f"{label:45}{cells}{time.monotonic() - began:9.1f}", flush=True)
            means[title][name] = known[where].mean(1)
    out.mkdir(parents=True, exist_ok=True)
    draw_figure(means).savefig(out / "sensitivity.png", dpi=110)


if __name__ == "__main__":
    main()
