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
# # Which of 400 tasks are worth pre-training on?
#
# Genes are the nodes of seven graphs, the protein interactions in seven tissues of the brain. A graph network is pre-trained to
# tell which of 400 gene sets a gene belongs to, and fine-tuned on 50 rare ones. Half of the 400 tasks have shuffled labels
# here: they teach nothing. Nobody says which; every task has a weight, learned by the derivative of the validation loss after
# fine-tuning.
#
# Needs `ppi_brain_tissues.npz` in the folder that METAPT_DATA names, and a few minutes of one CPU core.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import metapt
from metapt import data, hypergrad, meta, models, objectives, recipes

# %% [markdown]
# ## The data
#
# Four tissues to learn on, three for the test. A third of the genes are labelled for fine-tuning, another third is for the test:
# their labels are hidden from pre-training too. A label that is not there is `data.ABSENT`, and counts for no loss.

# %%
tissues = data.ppi_tissues()
rng = np.random.default_rng(0)
genes, tasks = tissues.y_pretrain.shape
rows = data.split(rng, genes, {"labelled": 778, "test": 648})
seen, unseen = np.split(rng.permutation(7), [4])
shuffled = np.isin(np.arange(tasks), rng.permutation(tasks)[: tasks // 2])
y_pretrain = np.where(shuffled, rng.permutation(tissues.y_pretrain, axis=0), tissues.y_pretrain)
y_pretrain[rows["test"]] = data.ABSENT
only = lambda kept: np.where(np.isin(np.arange(genes), kept)[:, None], tissues.y_finetune, data.ABSENT)
y_labelled, y_test = only(rows["labelled"]), only(rows["test"])

# %% [markdown]
# ## The method
#
# The weights are 400 times a softmax of as many numbers: their mean stays 1. The head for the 50 new tasks starts from zero in
# every outer step, takes one long step on features that rest, and the derivative goes back through it and through the five
# steps of pre-training before.

# %%
STEPS, WARM_UP = 60, 10
encoder = models.graph_network(tissues.graphs.nodes.shape[1], 0, 32, 2, "gcn", "node", 0.2)
weights = meta.softmax_weights(tasks)
pieces = recipes.task_weights.task_weights(
    encoder,
    features=32,
    tasks=tasks,
    classes=50,
    meta=weights,
    pretrain_optimizer=optax.adam(3e-3, eps_root=1e-12),
    finetune_optimizer=optax.sgd(20.0, momentum=0.9),
    meta_optimizer=optax.adam(optax.cosine_decay_schedule(0.1, STEPS - WARM_UP)),
    rule=hypergrad.unroll,
    loss=objectives.balanced_tasks,
)

# %% [markdown]
# ## Learn
#
# A batch is a tissue. The labelled genes are split anew at every outer step, half to fine-tune on and half to validate on. With
# `warm_up` in place of `step` the weights stay 1: that is what we compare with.

# %%
graphs, expressed = jax.tree.map(jnp.asarray, (tissues.graphs, tissues.expressed))
room = genes, int(np.diff(tissues.graphs.edge_start).max())
graph_of = lambda tissue: graphs.batch(tissue[None], *room)


def labels_of(y, tissue):
    return jnp.where(expressed[tissue][:, None], y, data.ABSENT)


def draw(key):
    def batches(key, y, steps):
        tissue = jax.random.choice(key, jnp.asarray(seen), (steps,))
        return jax.vmap(graph_of)(tissue), jax.vmap(lambda one: labels_of(y, one))(tissue)

    *keys, half_key = jax.random.split(key, 4)
    half = jax.random.bernoulli(half_key, 0.5, (genes, 1))
    validation = batches(keys[2], jnp.where(half, data.ABSENT, y_labelled), 1)
    return metapt.Batches(
        pretrain=batches(keys[0], y_pretrain, 5),
        finetune=batches(keys[1], jnp.where(half, y_labelled, data.ABSENT), 1),
        validation=jax.tree.map(lambda a: a[0], validation),
    )


@jax.jit
def learn(key):
    state = pieces.start(key, weights.init(key))
    rest, _ = metapt.run(pieces.algorithm.warm_up, draw, state, key, jnp.arange(STEPS))
    state, _ = metapt.run(pieces.algorithm.warm_up, draw, state, key, jnp.arange(WARM_UP))
    state, infos = metapt.run(pieces.algorithm.step, draw, state, key, jnp.arange(WARM_UP, STEPS))
    return rest, state, infos


equal, learned, infos = learn(jax.random.key(0))
weight = np.asarray(weights.constrain(learned.phi))
auc = roc_auc_score(~shuffled, weight)
print(
    f"mean weight: real tasks {weight[~shuffled].mean():.2f}, shuffled ones {weight[shuffled].mean():.2f}; AUC {auc:.3f}"
)
assert auc > 0.55

# %% [markdown]
# ## What it is worth
#
# Logistic regression on the features of the labelled genes, tested on genes and in tissues that were never seen. This is one run,
# of which the gain is uncertain; docs/graphs.md has ten.

# %%
resting = jax.jit(
    lambda params, extra, tissue: encoder.apply(params, extra, graph_of(tissue), jax.random.key(0), "running")[0]
)


def areas(state):
    def examples(tissue, y):
        here = tissues.expressed[tissue] & (y[:, 0] != data.ABSENT)
        features = resting(state.pretrain.params["encoder"], state.pretrain.extra, tissue)
        return np.asarray(features)[here], y[here]

    x, y = map(np.concatenate, zip(*(examples(tissue, y_labelled) for tissue in seen), strict=True))
    tests = [examples(tissue, y_test) for tissue in unseen]
    found = []
    for task in range(50):
        if y[:, task].any() and all(t[:, task].any() for _, t in tests):
            fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
            fit.fit(x, y[:, task])
            found.append(np.mean([roc_auc_score(t[:, task], fit.decision_function(z)) for z, t in tests]))
    return np.array(found)


before, after = areas(equal), areas(learned)
print(
    f"area under the ROC curve, mean over {len(after)} tasks: equal weights {before.mean():.3f}, learned {after.mean():.3f}"
)

# %% [markdown]
# ## Look
#
# Left, the weights in order: most large ones are those of real tasks. Right, the weights of the real tasks by family. Below, what
# each of the rare gene sets gains or loses: much, either way, since only a few genes of each are in the test.

# %%
figure, axes = plt.subplot_mosaic(
    [["order", "family"], ["gain", "gain"]], figsize=(9, 6), height_ratios=(3, 2), layout="constrained"
)
order = np.argsort(weight)
colours = np.where(shuffled, "#CC3311", "#009E73")
axes["order"].bar(np.arange(tasks), weight[order], width=1.0, color=colours[order])
axes["order"].set(xlabel="pre-training tasks, sorted (green: real, red: shuffled)", ylabel="learned weight")
by_family = [weight[(tissues.family == i) & ~shuffled] for i in range(len(tissues.family_names))]
axes["family"].boxplot(by_family, tick_labels=[name.replace("_", " ") for name in tissues.family_names])
axes["family"].set(ylabel="learned weight, real tasks")
gain = np.sort(after - before)[::-1]
axes["gain"].bar(np.arange(len(gain)), gain, color=np.where(gain > 0, "#009E73", "#CC3311"))
axes["gain"].axhline(0, color="black", linewidth=0.8)
axes["gain"].set(xlabel="fine-tuning tasks, sorted", ylabel="area, learned minus equal")
plt.show()
