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
# # Learn which labels are wrong
#
# 40 % of the pre-training labels are replaced by a wrong class. A small network weighs every pre-training example; its
# thousands of parameters are the meta-parameters. Nobody tells it which labels are wrong: it follows the derivative of the
# validation loss after fine-tuning on a few labels that are right.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import metapt
from metapt import data, hypergrad, meta, models, recipes, solvers

# %% [markdown]
# ## The data
#
# A thousand images to pre-train on, with doubtful labels. A hundred to fine-tune on and two hundred to validate on, with
# right ones. The network sees principal components of the images' wavelet scattering, in which a single layer errs less than
# a perceptron does on pixels: what it makes of a label is what the weighing network goes by. Components of small variance are
# lifted (a standard deviation of s becomes s to the power of 0.6).

# %%
rng = np.random.default_rng(0)
x, y = data.digits()
images = x.reshape(-1, 8, 8) + 0.5  # in [0, 1]
framed = np.pad(images, ((0, 0), (4, 4), (4, 4)))
coefficients = np.log(0.01 + data.scattering(framed, scales=2)).reshape(len(y), -1)
pca = PCA(400, whiten=True, random_state=0)
features = pca.fit_transform(StandardScaler().fit_transform(coefficients)) * pca.explained_variance_**0.3
rows = data.split(rng, len(y), {"pool": 1000, "train": 100, "validation": 200})
pool, train, validation = (data.Labelled(jnp.asarray(features[i]), jnp.asarray(y[i])) for i in rows.values())
wrong = rng.random(1000) < 0.4
pool = pool._replace(y=jnp.where(wrong, (pool.y + rng.integers(1, 10, 1000)) % 10, pool.y))

# %% [markdown]
# ## The method
#
# The weighing network sees what an averaged copy of the pre-trained network makes of image and label, and faintly these two. All
# weights start at 1, and over a batch their mean stays 1; a power of 12 parts them far. A penalty keeps pre-training from
# learning wrong labels by heart before they are told. The weighing network moves in the first third of the steps only; then
# pre-training goes on with it.

# %%
STEPS, WARM_UP = 150, 20  # outer steps, and how many of them leave the weights at rest
model = models.with_head(models.mlp(400, (64,)), models.linear(64, 10))
weighing = meta.relative_example_weights(models.label_critic(model, inputs=400, classes=10, hidden=32), power=12.0)
pieces = recipes.example_weights.example_weights(
    model,
    weighing,
    view=lambda context, x, key: x,
    l2=1e-2,
    teacher_decay=0.98,
    pretrain_optimizer=optax.adam(3e-3, eps_root=1e-12),
    finetune_optimizer=optax.sgd(0.1),
    meta_optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, (STEPS - WARM_UP) // 3)),
    rule=lambda stage: hypergrad.implicit(stage, solvers.neumann(terms=20)),
)

# %% [markdown]
# ## Learn
#
# An outer step is five steps of pre-training, one of fine-tuning, and one move of the weighing network. Pre-training is
# never started again.


# %%
def draw(key):
    return metapt.Batches(
        pretrain=data.draw(key, pool, steps=5, size=256),
        finetune=jax.tree.map(lambda a: a[None], train),
        validation=validation,
    )


@jax.jit
def learn(key):
    state = pieces.start(key, weighing.init(key))
    state, _ = metapt.run(pieces.algorithm.warm_up, draw, state, key, jnp.arange(WARM_UP))
    return metapt.run(pieces.algorithm.step, draw, state, key, jnp.arange(WARM_UP, STEPS))


state, infos = learn(jax.random.key(0))
weights = np.asarray(weighing.constrain(state.phi)(pool, state.pretrain.extra))
ratio, auc = weights[~wrong].mean() / weights[wrong].mean(), roc_auc_score(~wrong, weights)
print(
    f"mean weight: right labels {weights[~wrong].mean():.3f}, wrong labels {weights[wrong].mean():.3f}, ratio {ratio:.0f}"
)
print(f"AUC of the weight as a test of the label {auc:.3f}")
assert ratio > 5
assert auc > 0.9

# %% [markdown]
# ## Look
#
# Expect two heaps, with wrong labels far to the left. Both axes are logarithmic. The upper strip shows the examples with the
# smallest weights, with the labels that pre-training was given: they should be plainly wrong. The lower one shows the wrong
# labels with the largest weights; a few of these could pass for right ones, and they alone make the ratio what it is.

# %%
SHOWN = 10
lightest = np.argsort(weights)[:SHOWN]
believed = np.flatnonzero(wrong)[np.argsort(-weights[wrong])[:SHOWN]]
panels = [[f"{strip} {place}" for place in range(SHOWN)] for strip in ("lightest", "believed")]
figure, axes = plt.subplot_mosaic(
    [["weights"] * SHOWN, *panels], height_ratios=(3, 1, 1), figsize=(9, 5.5), layout="constrained"
)
bins = np.geomspace(weights.min(), weights.max(), 50)
axes["weights"].hist(weights[~wrong], bins, color="#009E73", alpha=0.6, label="right labels")
axes["weights"].hist(weights[wrong], bins, color="#CC3311", alpha=0.6, label="wrong labels")
axes["weights"].set(xscale="log", yscale="log", xlabel="learned weight", ylabel="examples")
axes["weights"].legend()
for names, examples in zip(panels, (lightest, believed), strict=True):
    for name, i in zip(names, examples, strict=True):
        axes[name].imshow(images[rows["pool"][i]], cmap="gray_r")
        axes[name].set(title=f'"{pool.y[i]}"', xticks=[], yticks=[])
plt.show()
