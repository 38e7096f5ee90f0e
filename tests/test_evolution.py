"""Evolution strategies against closed forms, within their own standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Stage, hypergrad, stages
from tests.oracles import A_STEP, K, task_weights

DECAY, WINDOWS, SIGMA, PAIRS, RUNS = 0.9, 8, 0.1, 20, 400
PHI, TARGET = {"a": np.array([0.3, -0.2])}, np.array([1.0, 0.5])


def _window(phi, state, key=None):
    """A window of one step: s <- 0.9 s + phi, loss |s - target|^2 / 2."""
    state = DECAY * state + phi["a"]
    return 0.5 * jnp.sum((state - TARGET) ** 2), state


def _path():
    """The states of a run, what each owes to phi as a whole, and to the phi of its own window."""
    reach = np.cumsum(DECAY ** np.arange(WINDOWS))
    return reach[:, None] * PHI["a"], reach[:, None], np.ones((WINDOWS, 1))


def _close(samples, expected):
    """The mean is within three standard errors; how many standard errors make up the whole of `expected`?"""
    error = samples.std(axis=0) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - expected), 3 * error)
    return error


def _persistent(key):
    estimator = hypergrad.persistent_evolution(_window, SIGMA, PAIRS)

    def body(particles, key):
        gradient, particles, _ = estimator.gradient(PHI, particles, key)
        return particles, gradient["a"]

    _, gradients = jax.lax.scan(body, estimator.init(PHI, jnp.zeros(2)), jax.random.split(key, WINDOWS))
    return gradients.sum(axis=0)


def _truncated(key):
    def body(state, key):
        estimate = hypergrad.evolution(SIGMA, PAIRS)(_window, has_aux=True)
        gradient, state = estimate(PHI, state, key)
        return state, gradient["a"]

    _, gradients = jax.lax.scan(body, jnp.zeros(2), jax.random.split(key, WINDOWS))
    return gradients.sum(axis=0)


def test_persistent_evolution_is_unbiased_where_truncation_is_not():
    """The gradient of the sum of all windows' losses is sum_t (s_t - target) ds_t/dphi; cut windows see ds_t/dphi = 1."""
    states, whole, own = _path()
    exact, cut = (((states - TARGET) * owes).sum(axis=0) for owes in (whole, own))
    keys = jax.random.split(jax.random.key(0), RUNS)
    persistent = np.asarray(jax.jit(jax.vmap(_persistent))(keys))
    truncated = np.asarray(jax.jit(jax.vmap(_truncated))(keys))
    assert (np.abs(exact - cut) > 10 * _close(persistent, exact)).all()  # enough runs to tell them apart
    assert (np.abs(exact - cut) > 10 * _close(truncated, cut)).all()


def test_one_window_as_long_as_the_run_is_plain_evolution():
    key = jax.random.key(3)
    estimator = hypergrad.persistent_evolution(_window, SIGMA, PAIRS)
    found, particles, loss = estimator.gradient(PHI, estimator.init(PHI, jnp.zeros(2)), key)
    above, below = jnp.split(particles.states, 2)
    np.testing.assert_allclose(above - PHI["a"], PHI["a"] - below, rtol=1e-12)
    noise = SIGMA * jax.random.normal(key, (PAIRS, 2))
    expected = (
        jnp.mean(((PHI["a"] - TARGET) @ noise.T)[:, None] * noise, axis=0) / SIGMA**2
    )  # a quadratic: no other term
    np.testing.assert_allclose(found["a"], expected, rtol=1e-10)
    assert loss.shape == ()


def test_evolution_estimates_a_two_stage_hypergradient():
    """Algorithm 1's meta-loss with a rule that shows nothing of phi: `argnums`, the report and the auxiliary value as in it."""
    problem = task_weights()
    stage, fine = Stage(problem.pretrain, optax.sgd(problem.rate)), Stage(problem.finetune, optax.sgd(A_STEP))

    def loss(phi, report, key):
        pre, _ = hypergrad.first_order(stage)(stages.start(stage, problem.start), phi, jnp.zeros(100), key)
        tuned, _ = hypergrad.first_order(fine)(stages.start(fine, pre.params), None, jnp.zeros(K), key)
        return problem.validate(tuned.params), tuned.params

    differentiate = hypergrad.evolution(1e-3, PAIRS)
    estimate = jax.jit(jax.vmap(lambda key: differentiate(loss, argnums=(0, 1), has_aux=True)(problem.phi, 1.0, key)))
    (samples, blank), params = estimate(jax.random.split(jax.random.key(1), 100))
    error = _close(np.asarray(samples), problem.hypergradient)
    assert (np.linalg.norm(problem.hypergradient) > 10 * error).all()
    assert (blank == 0).all() and params.shape == (100, 4)
    assert (jax.grad(loss, has_aux=True)(problem.phi, 1.0, jax.random.key(0))[0] == 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hypergrad.evolution(0.0, 1), "evolution: sigma=0.0 must be above 0"),
        (lambda: hypergrad.evolution(0.1, 0), "evolution: pairs=0 must be at least 1"),
        (lambda: hypergrad.persistent_evolution(_window, -1.0, 1), "persistent_evolution: sigma=-1.0"),
        (lambda: hypergrad.evolution(0.1, 1)(lambda phi: phi)(1.0), "last argument must be a key"),
        (lambda: hypergrad.evolution(0.1, 1)(lambda phi, x: phi)(1.0, 2.0), "last argument must be a key"),
    ],
)
def test_wrong_arguments_are_refused_with_the_bound(build, message):
    with pytest.raises(ValueError, match=message):
        build()
