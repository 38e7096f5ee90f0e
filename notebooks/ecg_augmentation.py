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
# # Learn how to change an electrocardiogram
#
# Contrastive pre-training teaches a network which changes of a signal do not matter: two changed copies of a record must
# look alike to it. How strong should the changes be? Here that is learned, from a hundred labelled records: how much noise,
# how long a gap, how many leads to drop, how far to bend time.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import metapt
from metapt import data, hypergrad, meta, models, recipes, solvers

# %% [markdown]
# ## The data
#
# Made-up records of a dynamical model of the heart beat, in twelve leads, so that nothing needs to be downloaded
# (`data.ptbxl_subset` and `data.ptbxl` read real ones into the same form). Nine folds to pre-train on, without labels; a
# hundred records are labelled with five diagnoses.

# %%
ecg = data.generated_ecg(seed=0, records=800)
parts = data.fold_split(ecg.fold, ecg.patient)
x = jnp.asarray(data.normalise(ecg, parts["pretrain"], data.global_scale(ecg, parts["pretrain"]), length=1000))
y = jnp.asarray(ecg.y[parts["pretrain"]])
LABELLED, CROP, BATCH = 100, 200, 32  # two seconds of a record at a time

# %% [markdown]
# ## The views
#
# Four changes, one after the other, each steered by one number that is learned: the longest gap as a share of the signal,
# the largest noise in units of the lead's standard deviation, the share of leads that is dropped, and how far time is bent,
# in samples of the random field that bends it.

# %%
view = data.in_turn(mask=data.random_mask, noise=data.random_noise, dropout=data.lead_dropout(), warp=data.time_warp)
strengths = meta.named(
    mask=meta.fraction(0.5), noise=meta.positive(0.1), dropout=meta.fraction(0.1), warp=meta.positive(2.0)
)

# %% [markdown]
# ## The method
#
# Pre-training is differentiated by the implicit function theorem, of whose series the leading term alone is kept.
# Fine-tuning, ten long steps of a linear head, is unrolled. Five binary labels need a loss of their own, which the recipe
# brings.

# %%
STEPS = 60
rate = optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=15, decay_steps=STEPS)  # of the four numbers
pieces = recipes.simclr_augmentation.simclr_augmentation(
    models.resnet1d(channels=12, widths=(16, 16), blocks=1, kernel=7),
    features=16,
    classes=5,
    view=view,
    meta=strengths,
    pretrain_optimizer=optax.adam(1e-3, eps_root=1e-12),
    finetune_optimizer=optax.sgd(3.0),
    meta_optimizer=optax.adam(rate),
    rule=lambda stage: hypergrad.implicit(stage, solvers.neumann(terms=0, step=1.0)),
)

# %% [markdown]
# ## Learn
#
# An outer step is four steps of pre-training, ten of fine-tuning, and one move of the four numbers. Fine-tuning sees a
# random half of the labelled records, the loss that counts the other half, and every step has other halves.


# %%
def crops(key, rows):
    first = jax.random.randint(key, rows.shape, 0, 1000 - CROP + 1)
    cut = lambda row, first: jax.lax.dynamic_slice(x, (row, first, 0), (1, CROP, 12))[0]
    return jnp.vectorize(cut, signature="(),()->(t,c)")(rows, first), y[rows]


def draw(key):
    order_key, rows_key, *keys = jax.random.split(key, 5)
    train, validation = jnp.split(jax.random.permutation(order_key, LABELLED), 2)
    return metapt.Batches(
        pretrain=crops(keys[0], jax.random.randint(rows_key, (4, BATCH), 0, len(x))),
        finetune=crops(keys[1], jnp.broadcast_to(train, (10, len(train)))),
        validation=crops(keys[2], validation),
    )


def step(state, batches, key):
    state, _ = pieces.algorithm.step(state, batches, key)
    return state, strengths.constrain(state.phi)


@jax.jit
def learn(key):
    return metapt.run(step, draw, pieces.start(key, strengths.init(key)), key, jnp.arange(STEPS))


key = jax.random.key(0)
start = strengths.constrain(strengths.init(key))
state, path = learn(key)  # most of the time is compilation
for name, values in path.items():
    print(f"{name:8} from {start[name]:.2f} to {values[-1]:.2f}")
assert all(jnp.isfinite(values).all() for values in path.values())

# %% [markdown]
# ## Look
#
# On the left the four numbers, each in units of its start, while pre-training went on. On the right one record, lead by
# lead, and what the network is asked to see through at the end: on paper as in a clinic, 0.2 seconds and half a millivolt
# a square. These records are simple, and little asks for change: noise and dropout grow by two fifths, gaps and warp stay.
# What learned views are worth on real records is measured in docs/ecg.md.

# %%
record = jnp.asarray(ecg.unit * ecg.signals[:1, 200:500].astype(np.float32))
last = jax.tree.map(lambda values: values[-1], path)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for name, values in path.items():
    left.plot(values / start[name], label=name)
left.axhline(1.0, color="black", linestyle=":", linewidth=1)
left.set(xlabel="outer step", ylabel="strength, relative to its start")
left.legend()
for signal, color in ((record, "black"), (view(last, record, jax.random.key(1)), "#D55E00")):
    for row, lead in enumerate(("I", "II", "V1", "V3", "V5")):
        right.plot(np.arange(300) / 100, signal[0, :, data.LEADS.index(lead)] - 2 * row, color=color, linewidth=0.9)
        right.text(0.02, 0.6 - 2 * row, lead)
right.set(xlabel="seconds", xticks=np.arange(0, 3.01, 0.2), yticks=np.arange(-9.5, 2, 0.5), xlim=(0, 3))
right.set_xticklabels([f"{t:.0f}" if i % 5 == 0 else "" for i, t in enumerate(np.arange(0, 3.01, 0.2))])
right.set_yticklabels([])
right.grid(color="#E67C73", linewidth=0.5)
plt.show()
