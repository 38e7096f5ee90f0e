"""GradNorm's step by hand, what cannot change its path, and the norms against single gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import objectives, updates
from metapt.recipes.gradnorm import gradnorm
from metapt.types import Batches, Model, StageState
from metapt.updates import Progress


def _apply(update, state, norms, losses, weights=(1.0, 1.0)):
    return update.apply(Progress(jnp.array(norms), jnp.array(losses)), state, jnp.array(weights))


def test_one_step_by_hand():
    update = updates.by_balance(optax.sgd(0.01), alpha=1.0)
    begun = update.init(jnp.ones(2))._replace(first=jnp.array([1.0, 1.0]))
    weights, _, skipped = _apply(
        update, begun, [4.0, 1.0], [3.0, 1.0]
    )  # r / mean(r) = (1.5, 0.5): targets (3.75, 1.25)
    moved = np.array([1.0 - 0.01 * 4.0, 1.0 + 0.01 * 1.0])
    np.testing.assert_allclose(weights, 2 * moved / moved.sum(), rtol=1e-14)
    assert not skipped
    weights, *_ = _apply(
        update, begun, [4.0, 1.0], [8.0, 1.0]
    )  # (16/9, 2/9): targets (4.44, 0.56), so the signs change
    moved = np.array([1.0 + 0.01 * 4.0, 1.0 - 0.01 * 1.0])
    np.testing.assert_allclose(weights, 2 * moved / moved.sum(), rtol=1e-14)
    even = updates.by_balance(optax.sgd(0.01), alpha=0.0)  # at 0 the rates do not matter
    np.testing.assert_array_equal(
        _apply(even, begun, [4.0, 1.0], [8.0, 1.0])[0], _apply(even, begun, [4.0, 1.0], [1.0, 1.0])[0]
    )


def test_progress_is_counted_from_the_first_losses_and_the_derivative_is_that_of_constant_targets():
    update = updates.by_balance(optax.sgd(0.01), alpha=0.7)
    weights, state, _ = _apply(update, update.init(jnp.ones(2)), [3.0, 1.0], [5.0, 0.1])
    np.testing.assert_array_equal(state.first, [5.0, 0.1])
    norms, losses = jnp.array([2.0, 1.5]), jnp.array([1.0, 0.09])
    rate = losses / state.first
    size = weights * norms
    target = size.mean() * (rate / rate.mean()) ** 0.7
    slope = jax.grad(lambda w: jnp.abs(w * norms - target).sum())(weights)
    again, *_ = _apply(update, state, norms, losses, weights)
    np.testing.assert_allclose(again, 2 * (weights - 0.01 * slope) / (weights - 0.01 * slope).sum(), rtol=1e-13)


def test_with_adam_the_unit_of_the_losses_does_not_matter_and_weights_stay_in_their_simplex():
    update = updates.by_balance(optax.adam(0.3, eps=0.0), alpha=0.5)
    paths = []
    for unit in (1.0, 1e4):
        weights, state = jnp.ones(3), update.init(jnp.ones(3))
        for t in range(1, 8):
            measured = Progress(unit * jnp.array([9.0, 1.0, 0.5 * t]), unit * jnp.array([2.0 / t, 1.0, 0.3]))
            weights, state, _ = update.apply(measured, state, weights)
            assert weights.min() >= 0.0 and float(weights.sum()) == pytest.approx(3.0, rel=1e-12)
        paths.append(np.asarray(weights))
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-10)


@pytest.mark.parametrize(
    ("norms", "losses"), [([jnp.nan, 1.0], [1.0, 1.0]), ([1.0, 1.0], [jnp.inf, 1.0]), ([1.0, 1.0], [0.0, 1.0])]
)
def test_what_cannot_be_used_moves_nothing(norms, losses):
    update = updates.by_balance(optax.adam(0.1), alpha=1.0)
    before = update.init(jnp.ones(2))
    weights, state, skipped = _apply(update, before, norms, losses)
    assert skipped and (weights == 1.0).all()
    jax.tree.map(np.testing.assert_array_equal, state, before)
    with pytest.raises(ValueError, match="by_balance: alpha=-1"):
        updates.by_balance(optax.adam(0.1), alpha=-1.0)


def test_a_run_measures_single_tasks_trains_on_the_weights_it_had_and_then_moves_them():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"shared": jax.random.normal(keys[0], (4, 5)), "head": jax.random.normal(keys[1], (5, 3))}
    model = Model(lambda key: params, lambda params, x: jnp.tanh(x @ params["shared"]) @ params["head"])
    x, y = jax.random.normal(keys[2], (1, 6, 4)), jax.random.normal(keys[3], (1, 6, 3))
    shared = lambda params: params["shared"]
    method = gradnorm(model, objectives.weighted_squares, 3, shared, optax.sgd(0.1), optax.sgd(0.01), alpha=0.5)
    task_loss = lambda params, t: jnp.mean((model.apply(params, x[0])[:, t] - y[0, :, t]) ** 2)
    gradients = [jax.grad(task_loss)(params, t) for t in range(3)]

    measure = updates.progress(objectives.weighted_squares(objectives.whole(model)), 3, shared)
    found = measure(StageState(params, None, None), (x, y), jax.random.key(0))
    np.testing.assert_allclose(found.norms, [np.linalg.norm(g["shared"]) for g in gradients], rtol=1e-12)
    np.testing.assert_allclose(found.losses, [task_loss(params, t) for t in range(3)], rtol=1e-12)

    step = jax.jit(method.step)
    begun = method.init(jax.random.key(0))._replace(weights=jnp.array([0.5, 0.5, 2.0]))
    state, _ = step(begun, Batches((x, y), None, None), jax.random.key(0))
    summed = jax.tree.map(lambda *g: 0.5 * g[0] + 0.5 * g[1] + 2.0 * g[2], *gradients)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.1 * g, rtol=1e-12),
        state.train.params,
        params,
        summed,
    )
    update = updates.by_balance(optax.sgd(0.01), alpha=0.5)
    np.testing.assert_allclose(state.weights, update.apply(found, begun.update, begun.weights)[0], rtol=1e-12)
