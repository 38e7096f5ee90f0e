"""A start that moves at every step, on quadratic tasks whose trajectories are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metapt import Stage, hypergrad, stages, updates

RATE, TASKS, STEPS = 0.05, 3, 8
RNG = np.random.default_rng(0)
Q = RNG.normal(size=(2, 2))
H, CENTRES = Q @ Q.T + np.eye(2), RNG.normal(size=(TASKS, 2))


def _objective(params, context, extra, batch, key):
    apart = params["encoder"] - batch
    return 0.5 * apart @ H @ apart + 0.5 * (params["head"] - batch.sum()) ** 2, extra


SHARED = {"encoder": True, "head": False}
PHI = {"encoder": np.array([1.0, -2.0]), "head": np.array(7.0)}
STAGE = Stage(_objective, optax.sgd(RATE))


def _round(update, steps=STEPS, order=slice(None), stage=STAGE):
    shifting = hypergrad.trajectory_shifting(stage, update, SHARED)
    heads = jnp.zeros((TASKS, 2)), jnp.arange(3.0)[order]
    tasks = jax.vmap(lambda *p: stages.start(stage, dict(zip(PHI, p, strict=True))))(*heads)
    batches = jnp.broadcast_to(CENTRES[order], (steps, TASKS, 2))
    return jax.jit(shifting.step)(shifting.init(PHI, tasks), batches, jax.random.key(0))


def _by_hand(beta, steps=STEPS):
    """Trajectories, the start and its moves, by the equations."""
    phi, thetas, moves = PHI["encoder"], np.tile(PHI["encoder"], (TASKS, 1)), []
    for _ in range(steps):
        thetas = thetas - RATE * (thetas - CENTRES) @ H
        moves.append(-beta * (phi - thetas.mean(axis=0)))
        phi, thetas = phi + moves[-1], thetas + moves[-1]
    return phi, thetas, np.array(moves)


def test_a_round_is_the_equations_and_what_is_not_shared_stays_with_its_task():
    state, info = _round(updates.by_gradient(optax.sgd(0.1)))
    phi, thetas, moves = _by_hand(0.1)
    np.testing.assert_allclose(state.phi["encoder"], phi, rtol=1e-12)
    np.testing.assert_allclose(state.tasks.params["encoder"], thetas, rtol=1e-12)
    np.testing.assert_allclose(info.hypergradient_norm, 10 * np.linalg.norm(moves, axis=1), rtol=1e-12)
    heads = CENTRES.sum(axis=1) + (1 - RATE) ** STEPS * (np.arange(3.0) - CENTRES.sum(axis=1))
    np.testing.assert_allclose(state.tasks.params["head"], heads, rtol=1e-12)
    assert state.phi["head"] == 7.0 and info.tasks.loss.shape == (STEPS, TASKS) and not info.skipped.any()
    turned, _ = _round(updates.by_gradient(optax.sgd(0.1)), order=np.array([2, 0, 1]))
    np.testing.assert_allclose(turned.phi["encoder"], phi, rtol=1e-12)


def test_a_start_at_rest_is_ordinary_training_and_decay_leaves_the_rest_alone():
    state, _ = _round(updates.by_gradient(optax.sgd(0.0)))
    np.testing.assert_allclose(state.tasks.params["encoder"], _by_hand(0.0)[1], rtol=1e-12)
    decayed, _ = _round(updates.by_gradient(optax.adamw(0.1, weight_decay=0.5)), steps=1)
    assert decayed.phi["head"] == 7.0 and decayed.phi["encoder"][0] != PHI["encoder"][0]


def test_the_error_of_shifting_is_the_closed_form_and_of_the_known_order():
    """Against training again from the new start: sum_j ((I - a H)^(K - j) - (I - a H)^K) D_j, so a h |D| K^2 / 2."""

    def error(rate, steps, move=np.array([1e-3, 2e-3])):
        stage = Stage(_objective, optax.sgd(rate))
        constant = updates.by_gradient(_moves_by(move))
        state, _ = _round(constant, steps, stage=stage)
        once = lambda n: np.linalg.matrix_power(np.eye(2) - rate * H, n)
        again = CENTRES + (state.phi["encoder"] - CENTRES) @ once(steps)
        expected = sum((once(steps - j) - once(steps)) @ move for j in range(1, steps + 1))
        found = state.tasks.params["encoder"] - again
        np.testing.assert_allclose(found, np.tile(expected, (TASKS, 1)), rtol=1e-9)
        return np.linalg.norm(found[0]), rate * np.linalg.norm(H @ move) * steps * (steps + 1) / 2

    found, leading = error(1e-4, 8)
    np.testing.assert_allclose(found, leading, rtol=0.01)
    np.testing.assert_allclose(error(5e-5, 8)[0] / found, 1 / 2, rtol=0.01)
    np.testing.assert_allclose(error(1e-4, 32)[0] / found, (32 * 33) / (8 * 9), rtol=0.02)


def _moves_by(move):
    """An optimizer whose every update is the same."""
    return optax.stateless(lambda updates, params: {**updates, "encoder": jnp.asarray(move)})
