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
# # Two derivatives of one training run
#
# What does the end of training owe to a setting? There are two answers. Unrolling differentiates what happened: every step,
# from this start. The implicit function theorem differentiates where training is going: the minimum, whatever the path.
# Here both are compared on ridge regression, where the answer for the minimum is known on paper.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from metapt import Stage, hypergrad, solvers, stages
from metapt.optimizers import from_context

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## A stage
#
# Forty examples, six features, one penalty: its logarithm is the meta-parameter. The learning rate is in the context too.

# %%
x = jax.random.normal(jax.random.key(0), (40, 6)) * jnp.array([2.0, 1.5, 1.0, 1.0, 0.7, 0.5])
y = x @ jnp.array([1.0, -2.0, 0.5, 0.0, 1.0, 3.0]) + jax.random.normal(jax.random.key(1), (40,))
context = {"log_penalty": jnp.log(0.5), "rate": jnp.array(0.1)}


def ridge(params, context, extra, batch, key):
    return 0.5 * jnp.mean((x @ params - y) ** 2) + 0.5 * jnp.exp(context["log_penalty"]) * jnp.sum(params**2), extra


stage = Stage(ridge, from_context(lambda c: optax.sgd(c["rate"]), like=context))

# %% [markdown]
# ## On paper
#
# The minimum is `(X'X/n + penalty I)^-1 X'y/n`, and a function of the penalty that jax differentiates as it stands.


# %%
def minimum(context):
    H = x.T @ x / len(x) + jnp.exp(context["log_penalty"]) * jnp.eye(6)
    return jnp.linalg.solve(H, x.T @ y / len(x))


judge = lambda params: jnp.sum(params**2)  # any function of where training ends
of_minimum = jax.grad(lambda c: judge(minimum(c)))(context)["log_penalty"]

# %% [markdown]
# ## By three rules
#
# Each rule makes the same training run out of the stage, and each has its own derivative. `unroll` remembers every step,
# `truncate` the last five; `implicit` remembers nothing and solves a linear system at the end, here exactly.

# %%
rules = {
    "unroll": hypergrad.unroll(stage),
    "truncate": hypergrad.truncate(stage, last=5),
    "implicit": hypergrad.implicit(stage, solvers.dense()),
    "implicit, 4 terms": hypergrad.implicit(stage, solvers.neumann(4, step=0.1)),
}
state = stages.start(stage, jnp.zeros(6))


def derivative(fit, steps):
    end = lambda context: judge(fit(state, context, jnp.zeros(steps), jax.random.key(0))[0].params)
    return jax.jit(jax.grad(end))(context)


lengths = [5, 10, 20, 40, 80, 160, 320]
found = {name: [derivative(fit, steps) for steps in lengths] for name, fit in rules.items()}
for name, gradients in found.items():
    print(f"{name:18} 5 steps: {gradients[0]['log_penalty']:+.4f}   320 steps: {gradients[-1]['log_penalty']:+.4f}")
print(f"{'on paper':18} at the minimum:               {of_minimum:+.4f}")
assert jnp.allclose(found["unroll"][-1]["log_penalty"], of_minimum, rtol=1e-6)
assert jnp.allclose(found["implicit"][-1]["log_penalty"], of_minimum, rtol=1e-6)
assert jnp.allclose(found["truncate"][-1]["log_penalty"], found["implicit, 4 terms"][-1]["log_penalty"], rtol=1e-6)

# %% [markdown]
# Once training rests, unrolling and the theorem agree, and so do five remembered steps and five terms of the Neumann series
# (the leading one and four more): both see five steps' worth of the past. That is what few terms mean.
#
# Before it rests they differ, and neither is wrong: after five steps, the end owes much to the start.
#
# ## What one of them cannot see
#
# Where training rests does not depend on how fast it went there. To the theorem the learning rate is invisible, exactly; to
# unrolling it is not, as long as training is under way.

# %%
for name in ("unroll", "implicit"):
    print(f"{name:9} derivative in the learning rate after 5 steps: {found[name][0]['rate']:+.4f}")
print(hypergrad.cut_paths(stage, state, context, jnp.zeros(5)))

# %% [markdown]
# ## Look
#
# The distance of each rule's derivative from that of the minimum, and from that of the run that took place.

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
truth = {"the minimum": [of_minimum] * len(lengths), "the run": [g["log_penalty"] for g in found["unroll"]]}
for axes, (what, exact) in zip(panels, truth.items(), strict=True):
    for name, gradients in found.items():
        error = [max(abs(g["log_penalty"] - e) / abs(e), 1e-12) for g, e in zip(gradients, exact, strict=True)]
        axes.loglog(lengths, error, marker="o", label=name)
    axes.set(xlabel="steps of training", title=f"against the derivative of {what}", ylim=(1e-13, 10))
panels[0].set_ylabel("relative error (1e-12: none)")
panels[0].legend()
plt.show()
