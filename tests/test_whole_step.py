"""Stand-ins for `jax.grad`, and meta-parameters inside the optimizer."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Batches, Stage, hypergrad, meta_pretraining, stages, updates
from metapt.optimizers import from_context
from tests.oracles import PROBLEMS, K, plain

H, C, START = 2.0, 1.5, 4.0
LIKE = {"rate": 0.1, "target": 0.0}


def _learned(make, like=LIKE):
    objective = plain(lambda p, c: 0.5 * H * (p - c["target"]) ** 2)
    return Stage(objective, from_context(make, like))


def _end(stage, rule, steps):
    fit = rule(stage)
    return lambda context: fit(stages.start(stage, jnp.array(START)), context, jnp.zeros(steps), jax.random.key(0))[0]


@pytest.mark.parametrize("steps", [1, 7])
def test_the_derivative_in_a_learning_rate_is_the_closed_form(steps):
    """theta_S = c + (1 - a h)^S (theta_0 - c) under gradient descent with rate a."""
    stage, context = _learned(lambda c: optax.sgd(c["rate"])), {"rate": jnp.array(0.2), "target": jnp.array(C)}
    shrink = 1 - 0.2 * H
    expected = {"rate": -steps * H * shrink ** (steps - 1) * (START - C), "target": 1 - shrink**steps}
    for rule, gradient in ((hypergrad.unroll, jax.grad), (hypergrad.unroll, hypergrad.forward)):
        found = jax.jit(gradient(lambda c, rule=rule: _end(stage, rule, steps)(c).params))(context)
        chex.assert_trees_all_close(found, expected, rtol=1e-12)
    last = jax.grad(lambda c: _end(stage, functools.partial(hypergrad.truncate, last=1), steps)(c).params)(context)
    np.testing.assert_allclose(last["rate"], -H * shrink ** (steps - 1) * (START - C), rtol=1e-12)
    at_rest = jax.grad(lambda c: _end(stage, hypergrad.implicit, steps)(c).params)(context)
    assert at_rest["rate"] == 0 and at_rest["target"] != 0


@pytest.mark.parametrize(
    "make",
    [
        lambda c: optax.adam(c["rate"], b1=c["decay"], b2=c["slow"], eps_root=1e-8),
        lambda c: optax.sgd(lambda count: c["rate"] * c["decay"] ** count, momentum=c["slow"]),
        lambda c: optax.chain(optax.clip(5 * c["slow"]), optax.add_decayed_weights(c["decay"]), optax.sgd(c["rate"])),
    ],
    ids=["adam", "schedule", "clipped_decayed"],
)
def test_forward_equals_reverse_equals_differences_for_any_setting_of_an_optimizer(make):
    context = {"rate": 0.05, "decay": 0.8, "slow": 0.9, "target": C}
    stage = _learned(make, context)
    end = lambda c: _end(stage, hypergrad.unroll, 6)(c).params
    gradients = jax.grad, hypergrad.forward, hypergrad.central_differences(1e-5)
    reverse, forward, differences = (jax.jit(gradient(end))(context) for gradient in gradients)
    assert all(leaf != 0 for leaf in jax.tree.leaves(reverse))
    chex.assert_trees_all_close(forward, reverse, rtol=1e-11)
    chex.assert_trees_all_close(differences, reverse, rtol=1e-7)


def test_the_error_of_central_differences_falls_with_the_square_of_the_step_and_rises_with_its_inverse():
    """A sixth of the third derivative times h^2 where the series is cut; eps / h where values are rounded."""
    stage, context = _learned(lambda c: optax.sgd(c["rate"])), {"rate": 0.2, "target": C}
    end = jax.jit(lambda c: _end(stage, hypergrad.unroll, 7)(c).params)
    exact = jax.grad(end)(context)["rate"]
    widths = 10.0 ** -np.arange(1, 14)
    errors = np.array([abs(hypergrad.central_differences(h)(end)(context)["rate"] - exact) for h in widths])
    third = 7 * 6 * 5 * H**3 * (1 - 0.2 * H) ** 4 * (START - C) / 6
    np.testing.assert_allclose(errors[1:4], third * widths[1:4] ** 2, rtol=0.05)
    eps = np.finfo(float).eps
    assert (errors[7:] < 20 * eps * START / widths[7:]).all() and errors[-1] > 100 * errors.min()
    assert 1e-7 <= widths[errors.argmin()] <= 1e-4  # about the cube root of eps


def test_a_learning_rate_is_learned():
    """With rate 1 / h one step arrives: Algorithm 1 finds it, differentiating forwards."""
    pretrain = _learned(lambda c: optax.sgd(c["rate"]), {"rate": 0.1, "target": 0.0})
    pretrain = pretrain._replace(objective=plain(lambda p, c: 0.5 * H * (p["encoder"] - C) ** 2))
    algorithm = meta_pretraining(
        hypergrad.unroll(pretrain),
        hypergrad.unroll(Stage(plain(lambda p, c: 0.0 * p["encoder"]), optax.sgd(0.1))),
        plain(lambda p, c: (p["encoder"] - C) ** 2),
        updates.by_gradient(optax.sgd(0.02)),
        differentiate=hypergrad.forward,
    )
    start = {"encoder": jnp.array(START)}
    fine = stages.start(Stage(plain(lambda p, c: 0.0), optax.sgd(0.1)), start)
    state = algorithm.init({"rate": jnp.array(0.1)}, stages.start(pretrain, start), fine)
    step = jax.jit(algorithm.step)
    for _ in range(60):
        moved, info = step(state, Batches(jnp.zeros(1), jnp.zeros(1), None), jax.random.key(0))
        state = state._replace(phi=moved.phi)
    np.testing.assert_allclose(state.phi["rate"], 1 / H, rtol=1e-9)
    assert info.report.solves == 0


@pytest.mark.parametrize("problem", PROBLEMS)
def test_forward_mode_equals_reverse_mode_on_two_stages(problem):
    problem = PROBLEMS[problem]()
    stage, fine = Stage(problem.pretrain, optax.sgd(problem.rate)), Stage(problem.finetune, optax.sgd(0.1))
    key = jax.random.key(0)

    def loss(phi, report):
        end, _ = hypergrad.unroll(stage)(stages.start(stage, problem.start), phi, jnp.zeros(400), key)
        tuned, _ = hypergrad.unroll(fine)(stages.start(fine, end.params), None, jnp.zeros(K), key)
        return problem.validate(tuned.params), tuned

    (found, blank), tuned = jax.jit(hypergrad.forward(loss, argnums=(0, 1), has_aux=True))(problem.phi, 1.0)
    np.testing.assert_allclose(found, problem.hypergradient, rtol=1e-10, atol=1e-12)
    assert blank == 0 and tuned.params.shape == jnp.shape(problem.start)


def test_the_memory_of_forward_mode_does_not_grow_with_the_steps():
    stage = Stage(plain(lambda p, c: jnp.sum(jnp.tanh(p * c) ** 2)), optax.sgd(0.1))
    fit = hypergrad.unroll(stage)

    def peak(gradient, steps):
        end = lambda c: jnp.sum(
            fit(stages.start(stage, jnp.ones(1000)), c, jnp.zeros(steps), jax.random.key(0))[0].params
        )
        return jax.jit(gradient(end)).lower(1.1).compile().memory_analysis().temp_size_in_bytes

    assert peak(hypergrad.forward, 500) < 1.3 * peak(hypergrad.forward, 20)
    assert peak(jax.grad, 500) > 10 * peak(jax.grad, 20)


def test_stand_ins_refuse_another_argument_than_the_first():
    with pytest.raises(ValueError, match="argnums=1"):
        hypergrad.forward(lambda a, b: a * b, argnums=1)(1.0, 2.0)
    implicit = _end(_learned(lambda c: optax.sgd(0.1)), hypergrad.implicit, 3)
    with pytest.raises(TypeError, match="forward-mode"):
        hypergrad.forward(lambda c: implicit(c).params)({"target": jnp.array(C)})
