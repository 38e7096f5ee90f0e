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
# # Learn a rotation
#
# Fine-tuning images are turned by 90 degrees. Pre-training images are upright, but may be turned as we please. The one
# meta-parameter is the mean angle of that turn. Nobody tells it 90: it follows the derivative of the validation loss after
# fine-tuning, from five starts at once.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import metapt
from metapt import data, hypergrad, models, recipes, solvers

# %% [markdown]
# ## The data
#
# A thousand images to pre-train on. A hundred labelled ones to fine-tune on and two hundred to validate on, both turned by
# 90 degrees, give or take one.

# %%
rng = np.random.default_rng(0)
TARGET, STD = 90.0, 1.0
x, y = data.digits()
images = x.reshape(-1, 8, 8) + 0.5  # in [0, 1]: what a rotation brings in from outside is 0, the background
rows = data.split(rng, len(y), {"pool": 1000, "train": 100, "validation": 200})
pool, train, validation = (data.Labelled(jnp.asarray(images[i]), jnp.asarray(y[i])) for i in rows.values())
turn = jax.jit(jax.vmap(data.rotate))
train, validation = (
    part._replace(x=turn(part.x, TARGET + STD * rng.normal(size=len(part.y)))) for part in (train, validation)
)

# %% [markdown]
# ## The method
#
# The recipe takes an encoder and a view, here a random rotation about the mean that is learned. Pre-training is
# differentiated by the implicit function theorem, with a Neumann series for the inverse Hessian; fine-tuning by
# backpropagation through its one step. The meta-parameter moves by up to about 8 degrees a step at first, less and less
# along a cosine.

# %%
STEPS, WARM_UP = 120, 5  # outer steps, and how many of them leave the angle at rest
mlp = models.mlp(64, (64, 32))
pieces = recipes.augmentation.augmentation(
    models.relu(metapt.Model(mlp.init, lambda params, x: mlp.apply(params, x - 0.5))),
    features=32,
    classes=10,
    view=data.random_rotation(STD),
    l2=1e-4,
    pretrain_optimizer=optax.adam(1e-3, eps_root=1e-12),
    finetune_optimizer=optax.sgd(0.1),
    meta_optimizer=optax.adam(optax.cosine_decay_schedule(8.0, STEPS - WARM_UP), b2=0.99),
    rule=lambda stage: hypergrad.implicit(stage, solvers.neumann(terms=20)),
)

# %% [markdown]
# ## Learn
#
# An outer step is five steps of pre-training, one of fine-tuning, and one move of the angle. Pre-training is never started
# again. `vmap` runs all starts together, each with a network of its own.


# %%
def draw(key):
    return metapt.Batches(
        pretrain=data.draw(key, pool, steps=5, size=128),
        finetune=jax.tree.map(lambda a: a[None], train),
        validation=validation,
    )


def step(state, batches, key):
    state, info = pieces.algorithm.step(state, batches, key)
    return state, (state.phi, info.validation_loss)


def learn(angle, key):
    state = pieces.start(key, angle)
    state, _ = metapt.run(pieces.algorithm.warm_up, draw, state, key, jnp.arange(WARM_UP))
    return metapt.run(step, draw, state, key, jnp.arange(WARM_UP, STEPS))


starts = jnp.array([0.0, 36.0, 72.0, 108.0, 144.0])
state, (angles, losses) = jax.jit(jax.vmap(learn))(starts, jax.random.split(jax.random.key(0), len(starts)))
for first, last in zip(starts, state.phi, strict=True):
    print(f"from {first:5.1f} to {last:5.1f} degrees")
near = jnp.abs(starts - TARGET) < 60
assert jnp.abs(state.phi - TARGET)[near].max() < 15

# %% [markdown]
# ## Look
#
# Starts within 60 degrees come close to 90, past it and back. They stay a few degrees off: once pre-training turns its
# images about right, a few degrees cost next to nothing.
#
# A start further away may end upside down, at 270 (which is -90), as the one from 0 does here. With other keys at these
# settings, 3 of 12 runs from 75 degrees off failed, and 5 of 6 from 150 degrees off; none of 24 from 45 degrees or less did.
# Turned by 180 degrees, 0, 1 and 8 look the same, and 6 and 9 change places. To a digit that is nearly upside down, a
# little further is an improvement.

# %%
figure, axes = plt.subplot_mosaic(
    [["upright", "angles"], ["turned", "angles"]], width_ratios=(1, 3), figsize=(9, 4), layout="constrained"
)
for name, image, title in (("upright", pool.x[0], "pre-training"), ("turned", train.x[0], "fine-tuning")):
    axes[name].imshow(image, cmap="gray_r")
    axes[name].set(title=title, xticks=[], yticks=[])
for first, path in zip(starts, angles, strict=True):
    path = jnp.concatenate([jnp.full(WARM_UP + 1, first), path])
    axes["angles"].plot(path, color=plt.colormaps["viridis"](float(first) / 160))
axes["angles"].axhline(TARGET, color="black", linestyle="--", linewidth=1, label="angle of the fine-tuning images")
axes["angles"].set(xlabel="outer step", ylabel="learned angle (degrees)", yticks=range(-90, 181, 30))
axes["angles"].legend()
plt.show()
