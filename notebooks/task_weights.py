# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Learn which of 400 tasks are worth pre-training on
#
# Genes interact in tissues of the brain. A graph network is pre-trained to say in which of 400 gene sets a gene is, and
# fine-tuned on 50 other, rare sets. We spoil half of the 400 tasks by shuffling their labels, tell nobody which, and learn
# one weight a task from the validation loss after fine-tuning.
#
# This notebook needs `ppi_brain_tissues.npz` (`docs/graphs.md` says what is in it): set METAPT_DATA to its folder.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

import metapt
from metapt import data, hypergrad, meta, models, objectives, recipes

# %% [markdown]
# ## The data
#
# Seven graphs over the same genes, one a tissue. We pre-train on four tissues. A third of the genes is labelled for
# fine-tuning, half of these for its training and half for the validation loss that the weights minimise.

# %%
rng = np.random.default_rng(0)
tissues = data.ppi_tissues()
genes, tasks = tissues.y_pretrain.shape
classes = tissues.y_finetune.shape[1]
spoiled = np.isin(np.arange(tasks), rng.permutation(tasks)[: tasks // 2])
y_pretrain = tissues.y_pretrain.copy()
for task in np.flatnonzero(spoiled):
    y_pretrain[:, task] = rng.permutation(y_pretrain[:, task])
rows = data.split(rng, genes, {"train": genes // 6, "validation": genes // 6, "test": genes // 3})
only = lambda y, kept: jnp.asarray(np.where(np.isin(np.arange(genes), kept)[:, None], y, data.ABSENT))
y_pretrain = only(y_pretrain, np.setdiff1d(np.arange(genes), rows["test"]))
y_train, y_validation, y_test = (only(tissues.y_finetune, part) for part in rows.values())
room = genes, int(np.diff(tissues.graphs.edge_start).max())
print(f"{genes} genes, {tasks} tasks to pre-train on ({spoiled.sum()} spoiled), {classes} to fine-tune on")

# %% [markdown]
# ## The method
#
# Two graph convolutions with batch normalisation, whose running averages travel with the network. All weights start at 1
# and their mean stays 1. Fine-tuning is one step of a linear head, on a loss in which rare labels count as much as the
# common one.

# %%
STEPS, WARM_UP = 60, 10  # outer steps, and how many of them leave the weights at rest
encoder = models.graph_network(tissues.graphs.nodes.shape[1], 0, width=32, layers=2, convolution="gcn", readout="node")
weights = meta.softmax_weights(tasks)
pieces = recipes.task_weights.task_weights(
    encoder,
    32,
    tasks,
    classes,
    weights,
    pretrain_optimizer=optax.adam(3e-3, eps_root=1e-12),
    finetune_optimizer=optax.sgd(20.0),
    meta_optimizer=optax.adam(optax.cosine_decay_schedule(0.1, STEPS - WARM_UP)),
    rule=hypergrad.unroll,  # through the five steps of pre-training; thousands of steps: hypergrad.implicit
    loss=objectives.balanced_tasks,
)

# %% [markdown]
# ## Learn
#
# An outer step is five steps of pre-training on random tissues, one of fine-tuning, and one move of the weights. One to two
# minutes on a CPU.

# %%
graphs = jax.tree.map(jnp.asarray, tissues.graphs)


def draw(key):
    seen = jax.random.randint(key, (7,), 0, 4)
    graph = jax.vmap(lambda tissue: graphs.batch(tissue[None], *room))(seen)
    of = lambda rows: jax.tree.map(lambda leaf: leaf[rows], graph)
    several = lambda y, steps: jnp.broadcast_to(y, (steps, *y.shape))
    return metapt.Batches(
        pretrain=(of(slice(0, 5)), several(y_pretrain, 5)),
        finetune=(of(slice(5, 6)), several(y_train, 1)),
        validation=(of(6), y_validation),
    )


@jax.jit
def learn(key):
    state = pieces.start(key, weights.init(key))
    state, _ = metapt.run(pieces.algorithm.warm_up, draw, state, key, jnp.arange(WARM_UP))
    return metapt.run(pieces.algorithm.step, draw, state, key, jnp.arange(WARM_UP, STEPS))


state, infos = learn(jax.random.key(0))
learned = np.asarray(weights.constrain(state.phi))
auc = roc_auc_score(~spoiled, learned)
print(f"mean weight: real tasks {learned[~spoiled].mean():.2f}, spoiled tasks {learned[spoiled].mean():.2f}")
print(f"AUC of the weight as a test of the task {auc:.3f}; {int(infos.skipped.sum())} moves skipped as not finite")
assert auc > 0.6

# %% [markdown]
# ## Look
#
# Left: every task's weight, sorted; real tasks should crowd at the left end. Right: mean weights of the real tasks by the
# kind of gene set that they ask for.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", width_ratios=(2, 1))
order = np.argsort(-learned)
for kind, name, color in ((~spoiled, "real tasks", "#009E73"), (spoiled, "spoiled tasks", "#CC3311")):
    place = np.flatnonzero(kind[order])
    axes[0].bar(place, learned[order][place], width=1.0, color=color, label=name)
axes[0].axhline(1.0, color="black", linestyle=":", linewidth=1)
axes[0].set(xlabel="task (sorted by weight)", ylabel="learned weight")
axes[0].legend()
for number, name in enumerate(tissues.family_names):
    values = learned[(tissues.family == number) & ~spoiled]
    axes[1].bar(name.replace("_", "\n"), values.mean(), yerr=values.std() / np.sqrt(len(values)), color="#0072B2")
axes[1].set(ylabel="mean weight of real tasks")
plt.show()
