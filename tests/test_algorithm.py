"""The outer step as a pure function: compiled once, the same under vmap and in chunks, safe against NaN."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Batches, Stage, hypergrad, meta_pretraining, run, solvers, stages, updates
from metapt.stages import loop as loops
from tests.oracles import A_STEP, PROBLEMS, K, Quadratic, plain

P = 50


def _algorithm(problem, meta_optimizer=None, warm_start=True, rule=None):
    pre, fine = Stage(problem.pretrain, optax.sgd(problem.rate)), Stage(problem.finetune, optax.sgd(A_STEP))
    rule = rule or functools.partial(hypergrad.implicit, solve=solvers.dense())
    algorithm = meta_pretraining(
        pretrain=rule(pre),
        finetune=hypergrad.unroll(fine),
        validate=lambda params, context, extra, batch, key: (problem.validate(params) * batch, extra),
        update=updates.by_gradient(meta_optimizer or optax.sgd(0.1)),
        transfer=lambda pretrained, finetune, meta: (finetune._replace(params=pretrained.params), None),
        warm_start=warm_start,
    )
    state = algorithm.init(problem.phi, stages.start(pre, problem.start), stages.start(fine, problem.start))
    return algorithm, state


def _batches(key):
    return Batches(jnp.zeros(P), jnp.zeros(K), jnp.ones(()))


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_a_step_moves_phi_by_the_closed_form(name):
    problem = PROBLEMS[name]()
    algorithm, state = _algorithm(problem)
    keys = jax.random.split(jax.random.key(0), 8)
    for key in keys:  # warm-up: pre-training comes to rest, phi does not move
        state, info = algorithm.warm_up(state, _batches(key), key)
        assert jnp.isnan(info.hypergradient_norm)
    np.testing.assert_array_equal(state.phi, problem.phi)
    moved, info = jax.jit(algorithm.step)(state, _batches(keys[0]), keys[0])
    np.testing.assert_allclose(moved.phi, problem.phi - 0.1 * problem.hypergradient, rtol=1e-9)
    np.testing.assert_allclose(info.hypergradient_norm, np.linalg.norm(problem.hypergradient), rtol=1e-9)
    assert info.report.solves == 1 and info.report.residual < 1e-9 and not info.skipped


def test_every_step_says_by_which_way_phi_acts_and_how_far_from_rest_it_is():
    """Pre-training and fine-tuning are quadratics in `meta = exp(phi)`; validation sees `meta` too."""
    quadratic, rng = Quadratic.make(), np.random.default_rng(0)
    (H, A, _), B, b, c = quadratic, rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3)
    pre = Stage(quadratic.objective(), optax.sgd(0.05))
    fine = Stage(plain(lambda p, meta: 0.5 * jnp.sum((p - B @ meta) ** 2)), optax.sgd(A_STEP))
    phi = jnp.array([0.3, -0.2, 0.1])

    def step(differentiate):
        algorithm = meta_pretraining(
            hypergrad.implicit(pre, solvers.dense()),
            hypergrad.unroll(fine),
            plain(lambda p, meta: 0.5 * jnp.sum((p - b) ** 2) + c @ meta),
            updates.by_gradient(optax.sgd(1.0)),
            constrain=jnp.exp,
            transfer=lambda pretrained, finetune, meta: (finetune._replace(params=pretrained.params), meta),
            differentiate=differentiate,
        )
        state = algorithm.init(phi, stages.start(pre, jnp.zeros(4)), stages.start(fine, jnp.zeros(4)))
        return jax.jit(algorithm.step)(state, Batches(jnp.zeros(3), jnp.zeros(K), None), jax.random.key(0))

    state, info = step(jax.grad)
    meta, shrink, kept = np.exp(phi), np.eye(4) - 0.05 * H, (1 - A_STEP) ** K
    before, end = ((np.eye(4) - np.linalg.matrix_power(shrink, n)) @ A @ meta for n in (2, 3))
    slope = B @ meta + kept * (end - B @ meta) - b  # of the validation loss, in the fine-tuned parameters
    v = kept * slope  # and in the pre-trained ones
    indirect, direct = meta * (A.T @ v), meta * ((1 - kept) * B.T @ slope + c)
    np.testing.assert_allclose(phi - state.phi, indirect + direct, rtol=1e-9)
    norms = [np.linalg.norm(part) for part in (indirect + direct, indirect, direct)]
    np.testing.assert_allclose((info.hypergradient_norm, info.indirect_norm, info.direct_norm), norms, rtol=1e-9)
    cheap, away = A.T @ H @ v, before - A @ meta
    cosine = (A.T @ v) @ cheap / np.linalg.norm(A.T @ v) / np.linalg.norm(cheap)
    np.testing.assert_allclose(info.report.agreement, cosine, rtol=1e-9)
    gap = np.linalg.norm(H @ away) * np.linalg.norm(end) / (0.5 * away @ H @ away)
    np.testing.assert_allclose(info.stationarity_gap, gap, rtol=1e-9)
    _, info = step(hypergrad.central_differences(1e-3))  # of the whole alone
    assert info.hypergradient_norm > 0 and jnp.isnan(info.indirect_norm) and jnp.isnan(info.direct_norm)


def test_learning_online_finds_the_right_angle():
    """T5: the angle of pre-training comes to that of fine-tuning, where the validation loss is zero."""
    algorithm, state = _algorithm(PROBLEMS["rotation"](), optax.adam(0.1))
    state, infos = jax.jit(lambda s: run(algorithm.step, _batches, s, jax.random.key(0), jnp.arange(400)))(state)
    assert abs(state.phi - 1.3) < 1e-6 and infos.validation_loss[-1] < 1e-12 < infos.validation_loss[0]


def test_compiles_once():
    algorithm, state = _algorithm(PROBLEMS["ridge"](), optax.adam(0.1))
    step = jax.jit(chex.assert_max_traces(lambda s, b, k: algorithm.step(s, b, k), n=1))
    for key in jax.random.split(jax.random.key(0), 3):
        before = jax.tree.map(lambda a: (jnp.shape(a), jnp.asarray(a).dtype), state)
        state, _ = step(state, _batches(key), key)
        assert jax.tree.map(lambda a: (jnp.shape(a), jnp.asarray(a).dtype), state) == before


def _noisy(state, batches, key):
    return state + jax.random.normal(key) + batches, (state, batches)


def test_chunks_equal_the_uncut_run_bit_for_bit():
    whole = jax.jit(lambda s, n: run(_noisy, jax.random.normal, s, jax.random.key(3), n))
    expected, infos = whole(jnp.zeros(()), jnp.arange(10))
    first, head = whole(jnp.zeros(()), jnp.arange(4))
    second, tail = whole(first, jnp.arange(4, 10))
    assert second == expected
    chex.assert_trees_all_equal(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail), infos)


def test_vmap_over_seeds_equals_a_loop():
    algorithm, state = _algorithm(PROBLEMS["example_weights"](), optax.adam(0.1))
    phis = state.phi * jnp.array([[0.5], [1.0], [1.5]])
    states = jax.vmap(lambda phi: algorithm.init(phi, state.pretrain, state.finetune))(phis)
    keys = jax.random.split(jax.random.key(0), 3)
    chunk = lambda s, k: run(algorithm.step, _batches, s, k, jnp.arange(3))
    mapped = jax.vmap(chunk)(states, keys)
    looped = [chunk(jax.tree.map(lambda a, i=i: a[i], states), keys[i]) for i in range(3)]
    chex.assert_trees_all_close(mapped, jax.tree.map(lambda *a: jnp.stack(a), *looped), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_a_non_finite_hypergradient_moves_nothing_and_is_counted(poison):
    algorithm, state = _algorithm(PROBLEMS["ridge"](), optax.adam(0.1))
    key = jax.random.key(0)
    state, _ = algorithm.step(state, _batches(key), key)
    after, info = jax.jit(algorithm.step)(state, _batches(key)._replace(validation=jnp.array(poison)), key)
    assert info.skipped
    chex.assert_trees_all_equal((after.phi, after.update), (state.phi, state.update))
    assert jnp.isfinite(after.pretrain.params).all()  # training itself went on
    _, info = algorithm.step(after, _batches(key), key)
    assert not info.skipped


def test_warm_start_carries_the_finetuned_state_and_its_absence_does_not():
    key = jax.random.key(0)
    for warm_start in (True, False):
        algorithm, state = _algorithm(PROBLEMS["ridge"](), warm_start=warm_start)
        after, _ = algorithm.step(state, _batches(key), key)
        assert bool((after.finetune.params == state.finetune.params).all()) != warm_start


def _convolutional():
    kernel = jnp.ones((3, 1, 1)) * 0.1
    x = jnp.linspace(-1, 1, 32).reshape(2, 16, 1)

    def objective(params, context, extra, batch, key):
        out = jax.lax.conv_general_dilated(x, params * context, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
        return jnp.mean((out - jnp.sin(3 * x)) ** 2), extra

    return Stage(objective, optax.sgd(0.1)), kernel


def test_convolutions_leave_scan_on_a_cpu_and_the_choice_is_said(caplog, monkeypatch):
    stage, kernel = _convolutional()
    fits = {name: hypergrad.unroll(stage, loop=loop) for name, loop in (("auto", loops.auto), ("scan", jax.lax.scan))}
    end = {
        name: lambda c, fit=fit: fit(stages.start(stage, kernel), c, jnp.zeros(4), jax.random.key(0))[0].params.sum()
        for name, fit in fits.items()
    }
    with caplog.at_level("INFO", logger="metapt"):
        np.testing.assert_allclose(jax.grad(end["auto"])(1.3), jax.grad(end["scan"])(1.3), rtol=1e-12)
    assert "training loop: host loop over a jitted step (a convolution inside lax.scan is slow on cpu)" in caplog.text
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    loop, reason = loops.choose(lambda c, x: (c, stage.objective(kernel, c, None, None, None)[0]), 1.0, jnp.zeros(2))
    assert loop is jax.lax.scan and reason == "lax.scan (convolution, but on gpu)"


def test_the_host_loop_compiles_its_step_once():
    stage, kernel = _convolutional()
    traces, first = [], 0

    def objective(*arguments):
        traces.append(1)
        return stage.objective(*arguments)

    fit = hypergrad.first_order(Stage(objective, stage.optimizer), loop=loops.host)
    state = stages.start(stage, kernel)
    for context in (1.0, 2.0, 3.0):
        state, _ = fit(state, jnp.asarray(context), jnp.zeros(5), jax.random.key(0))
        first = first if context > 1.0 else len(traces)
    assert len(traces) == first


def test_a_convolution_is_found_wherever_it_hides():
    stage, kernel = _convolutional()
    loss = lambda carry: stage.objective(kernel, carry, None, None, None)[0]
    hidden = [
        lambda c, x: (jax.lax.cond(x > 0, loss, lambda c: c, c), c),
        lambda c, x: (jax.lax.fori_loop(0, 2, lambda i, c: loss(c), c), c),
        lambda c, x: (jax.checkpoint(jax.jit(loss))(c), c),
        lambda c, x: (jax.vmap(jax.grad(loss))(jnp.stack([c, c])).sum(), c),
    ]
    for body in hidden:
        assert loops.choose(body, jnp.ones(()), jnp.zeros(2))[0] is loops.host
