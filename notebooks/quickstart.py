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
# # Your own two-stage problem in 40 lines
#
# Pre-training: regression on data from several sources, some of them useless. Fine-tuning: a few clean examples.
# The meta-parameters are one weight a source. We write the problem, get its hypergradient, check it against finite
# differences of the whole procedure, learn with it, and look.

# %%
import jax

jax.config.update("jax_enable_x64", True)  # so that finite differences have digits to spare

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import metapt
from metapt import hypergrad, solvers, stages, updates

# %% [markdown]
# ## The problem: data, model, losses
#
# Sources 0 to 2 share the truth, sources 3 to 9 have a truth of their own.

# %%
rng = np.random.default_rng(0)
SOURCES, GOOD, D = 10, 3, 8
truth = rng.normal(size=D)
truths = np.where(np.arange(SOURCES)[:, None] < GOOD, truth, rng.normal(size=(SOURCES, D)))
x_pre = rng.normal(size=(SOURCES, 40, D))
y_pre = np.einsum("snd,sd->sn", x_pre, truths) + 0.5 * rng.normal(size=(SOURCES, 40))
x, y = (lambda x: (x, x @ truth + 0.5 * rng.normal(size=len(x))))(rng.normal(size=(60, D)))
train, validation, test = (slice(0, 6), slice(6, 30), slice(30, 60))


def pretrain_objective(params, weights, extra, batch, key):
    by_source = jnp.mean((x_pre @ params - y_pre) ** 2, axis=1)
    return jnp.mean(weights * by_source) + 1e-3 * jnp.sum(params**2), extra


def finetune_objective(params, context, extra, batch, key):
    return jnp.mean((x[train] @ params - y[train]) ** 2), extra


def validate(params, context, extra, batch, key):
    return jnp.mean((x[validation] @ params - y[validation]) ** 2), extra


# %% [markdown]
# ## Stages, rules, and the hypergradient
#
# A stage is an objective and an optimizer. A rule turns it into a `fit` with a stated derivative: here the implicit
# function theorem for pre-training, backpropagation through the steps for fine-tuning. Fits compose as functions.

# %%
weights = metapt.meta.softmax_weights(SOURCES)
pre = metapt.Stage(pretrain_objective, optax.sgd(0.1))
fine = metapt.Stage(finetune_objective, optax.sgd(0.02))
pretrain = hypergrad.implicit(pre, solvers.cg(max_steps=D))
finetune = hypergrad.unroll(fine)
P, K, KEY = 300, 5, jax.random.key(0)


def meta_loss(phi):
    trained, _ = pretrain(stages.start(pre, jnp.zeros(D)), weights.constrain(phi), jnp.zeros(P), KEY)
    tuned, _ = finetune(stages.start(fine, trained.params), None, jnp.zeros(K), KEY)
    return validate(tuned.params, None, None, None, KEY)[0]


phi = jnp.zeros(SOURCES)
hypergradient = jax.jit(jax.grad(meta_loss))(phi)
print(hypergradient.round(4))

# %% [markdown]
# ## Is it right?
#
# Central differences of the whole procedure, pre-training and fine-tuning run anew for every one.

# %%
loss = jax.jit(meta_loss)
eps = 1e-5
differences = jnp.array([(loss(phi + eps * e) - loss(phi - eps * e)) / (2 * eps) for e in jnp.eye(SOURCES)])
error = jnp.linalg.norm(hypergradient - differences) / jnp.linalg.norm(differences)
print(f"relative error {error:.1e}")
assert error < 1e-6

# %% [markdown]
# ## Learn with it, online
#
# `meta_pretraining` is Algorithm 1 of the paper: a few pre-training steps, a few fine-tuning steps, one move of phi, and on,
# without ever starting pre-training again. `run` scans the outer steps.

# %%
algorithm = metapt.meta_pretraining(
    pretrain=pretrain,
    finetune=finetune,
    validate=validate,
    update=updates.by_gradient(optax.adam(0.1)),
    constrain=weights.constrain,
    transfer=lambda pretrained, finetune, meta: (finetune._replace(params=pretrained.params), None),
)
state = algorithm.init(phi, stages.start(pre, jnp.zeros(D)), stages.start(fine, jnp.zeros(D)))
draw = lambda key: metapt.Batches(jnp.zeros(10), jnp.zeros(K), None)  # ten pre-training steps an outer step
state, infos = jax.jit(lambda s: metapt.run(algorithm.step, draw, s, KEY, jnp.arange(150)))(state)

learned = weights.constrain(state.phi)
error_of = lambda params: float(jnp.mean((x[test] @ params - y[test]) ** 2))
equal, _ = pretrain(stages.start(pre, jnp.zeros(D)), jnp.ones(SOURCES), jnp.zeros(P), KEY)
print("weights", learned.round(2))
print(
    f"test error after pre-training: equal weights {error_of(equal.params):.2f}, learned {error_of(state.pretrain.params):.2f}"
)
assert learned[:GOOD].min() > learned[GOOD:].max()
assert error_of(state.pretrain.params) < 0.5 * error_of(equal.params)

# %% [markdown]
# ## Look
#
# The report says how far to trust every hypergradient; here CG solves the system exactly.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.bar(np.arange(SOURCES), learned, color=["#009E73"] * GOOD + ["#CC3311"] * (SOURCES - GOOD))
left.set(xlabel="source (green: shares the truth)", ylabel="learned weight")
right.semilogy(infos.validation_loss, label="validation loss")
right.semilogy(infos.report.residual, label="residual of the solve")
right.set(xlabel="outer step")
right.legend()
plt.show()
