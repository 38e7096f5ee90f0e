"""Training held near a point on linear regression, where its end is a solve, and so is the hypergradient of the strengths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxopt import prox

from metapt import Batches, Model, hypergrad, meta, models, objectives, optimizers, solvers
from metapt.objectives import StartPoint
from metapt.recipes.l2_sp import l2_sp

RNG = np.random.default_rng(0)
N, D, C, STEPS, RATE, MOMENTUM = 12, 4, 3, 500, 0.1, 0.5
X, Y, QX, QY = (RNG.normal(size=shape) for shape in ((N, D), (N, C), (N, D), (N, C)))
W0, ALPHA, BETA = RNG.normal(size=(D, C)), 0.3, 0.02
MODEL = Model(lambda key: None, lambda params, x: x @ params["encoder"] + params["head"])
TRAIN = tuple(np.broadcast_to(a, (STEPS, *a.shape)) for a in (X, Y))
BATCHES = Batches(None, TRAIN, (QX, QY))
PARAMS = {"encoder": W0, "head": np.ones(C)}
POINT = {"encoder": W0, "head": np.zeros(C)}
LASSO = StartPoint(POINT, {"encoder": 0.0, "head": 1.0}, {"encoder": 1.0, "head": 0.0})
# The head is one more input, always 1. Gradient of the mean squared error at V: H V - R.
Z, QZ = np.hstack([X, np.ones((N, 1))]), np.hstack([QX, np.ones((N, 1))])
H, R, V0 = 2 * Z.T @ Z / (N * C), 2 * Z.T @ Y / (N * C), np.vstack([W0, np.zeros((1, C))])
STRENGTHS = meta.named(encoder=meta.positive(ALPHA), head=meta.positive(BETA))


def _held(rule=hypergrad.unroll):
    sgd = optax.sgd(RATE, momentum=MOMENTUM)
    step, loss = RATE / (1 - MOMENTUM), objectives.squared_error
    return l2_sp(MODEL, sgd, step, optax.sgd(1.0), STRENGTHS.constrain, loss, rule)


HELD = _held()


@jax.jit
def _train(unit, strength):
    state, context = HELD.begin(PARAMS, unit, strength)
    end = HELD.fit(state, context, BATCHES.finetune, jax.random.key(0))[0].params
    return jnp.vstack([end["encoder"], end["head"]])


def _end(unit, encoder=ALPHA, head=BETA):
    full = unit.scaled(1.0)  # of one structure: compiled once
    return np.asarray(_train(jax.tree.map(jnp.asarray, full), {"encoder": encoder, "head": head}))


def _rest(strength, point=V0):
    """Strengths `[D + 1, C]`: a solve for every output."""
    solve = lambda a, r, w: np.linalg.solve(H + np.diag(a), r + a * w)
    return np.stack([solve(a, r, w) for a, r, w in zip(strength.T, R.T, point.T, strict=True)], axis=1)


def test_training_rests_between_the_minimum_and_the_point_by_curvature():
    parts = np.vstack([np.full((D, C), ALPHA), np.full((1, C), BETA)])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    close(_end(StartPoint(POINT, 1.0)), _rest(parts))
    zero = optax.tree.zeros_like(POINT)
    close(_end(StartPoint(zero, 1.0)), np.linalg.solve(H + np.diag(parts[:, 0]), R))  # ridge
    fisher = RNG.uniform(0.1, 3.0, (D, C))
    at = _end(StartPoint(POINT, {"encoder": jnp.asarray(fisher), "head": 1.0}))
    close(at, _rest(parts * np.vstack([fisher, np.ones((1, C))])))
    # One strength for all, in the eigenbasis of the Hessian: (h w* + alpha w0) / (h + alpha).
    h, basis = np.linalg.eigh(H)
    best, start = basis.T @ np.linalg.solve(H, R), basis.T @ V0
    mixed = (h[:, None] * best + ALPHA * start) / (h[:, None] + ALPHA)
    close(_end(StartPoint(POINT, 1.0), ALPHA, ALPHA), basis @ mixed)
    assert (
        np.abs(_end(StartPoint(POINT, 1.0), 10.0)[:D] - W0).max()
        < 0.1
        < np.abs(_end(StartPoint(POINT, 1.0))[:D] - W0).max()
    )


@pytest.mark.parametrize("rule", [hypergrad.unroll, lambda stage: hypergrad.implicit(stage, solvers.cg(30))])
def test_the_hypergradient_of_the_strengths_is_that_of_the_closed_form(rule):
    held = _held(rule)
    begun = held.start(PARAMS, StartPoint(POINT, 1.0), STRENGTHS.init(jax.random.key(0)))
    state, info = jax.jit(held.algorithm.step)(begun, BATCHES, jax.random.key(1))
    parts = np.vstack([np.full((D, C), ALPHA), np.full((1, C), BETA)])
    end = _rest(parts)
    np.testing.assert_allclose(info.validation_loss, np.mean((QZ @ end - QY) ** 2), rtol=1e-9)  # without any pull
    judged = np.linalg.solve(H + np.diag(parts[:, 0]), 2 * QZ.T @ (QZ @ end - QY) / (N * C))
    by_entry = -judged * parts * (end - V0)  # of the logarithm: dw / d alpha_j = -(H + alpha)^-1 e_j (w_j - w0_j)
    np.testing.assert_allclose(-state.phi["encoder"], by_entry[:D].sum(), rtol=1e-8)
    np.testing.assert_allclose(-state.phi["head"], by_entry[D].sum(), rtol=1e-8)
    jax.tree.map(np.testing.assert_array_equal, state.finetune, begun.finetune)  # every move starts afresh


def test_the_proximal_step_is_jaxopts_with_the_start_as_origin_and_none_at_strength_0():
    optimizer, w, update = optimizers.group_lasso(0.1), jnp.asarray(W0), jnp.asarray(RNG.normal(size=(D, C)))
    at = jnp.asarray(RNG.normal(size=(D, C)))

    def step(groups, update=update, at=at):
        return jnp.asarray(optimizer.update(update, (), w, context=StartPoint(at, 0.0, groups))[0])

    shrunk = jax.vmap(lambda column: prox.prox_group_lasso(column, 0.1 * 15.0 * D**0.5), 1, 1)(w + update - at)
    assert (shrunk == 0).all(0).any() and (shrunk != 0).any()
    np.testing.assert_allclose(w + step(15.0), at + shrunk, rtol=1e-12)
    np.testing.assert_allclose(step(0.0), update, rtol=1e-12)
    assert jax.grad(lambda groups: step(groups, 0 * w, w).sum())(1.0) == 0.0  # no NaN where nothing moved
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="group_lasso: step="):
            optimizers.group_lasso(wrong)


def test_groups_rest_where_the_subgradient_is_zero_and_are_frozen_exactly_where_it_may_be():
    alpha = 0.65
    end = _end(LASSO, alpha)
    gradient, moved = (H @ end - R)[:D], end[:D] - W0
    sizes = np.linalg.norm(moved, axis=0)
    frozen = sizes == 0
    assert frozen.any() and not frozen.all()
    pull = alpha * D**0.5 * moved[:, ~frozen] / sizes[~frozen]
    np.testing.assert_allclose(gradient[:, ~frozen], -pull, atol=1e-10)
    assert (np.linalg.norm(gradient[:, frozen], axis=0) < alpha * D**0.5).all()
    np.testing.assert_allclose((H @ end - R)[D], -BETA * end[D], atol=1e-10)

    begun = HELD.start(PARAMS, LASSO, {"encoder": jnp.log(alpha / ALPHA), "head": jnp.zeros(())})
    state, _ = jax.jit(HELD.algorithm.step)(begun, BATCHES, jax.random.key(1))
    loss = lambda shift: np.mean((QZ @ _end(LASSO, alpha * np.exp(shift)) - QY) ** 2)
    by_differences = (loss(1e-4) - loss(-1e-4)) / 2e-4
    np.testing.assert_allclose(begun.phi["encoder"] - state.phi["encoder"], by_differences, rtol=1e-6)


def test_fisher_is_that_of_the_softmax_and_the_diagonal_of_the_gauss_newton_matrix():
    x, w = jnp.asarray(X), jnp.asarray(W0)
    fisher = objectives.fisher_diagonal(lambda w, x: x @ w, w, x)
    p = jax.nn.softmax(x @ w)
    np.testing.assert_allclose(fisher, (X**2).T @ np.asarray(p * (1 - p)) / N, rtol=1e-12)
    model = models.mlp(D, (3, C), jnp.tanh)
    params = model.init(jax.random.key(0))
    fisher, p = objectives.fisher_diagonal(model.apply, params, x), jax.nn.softmax(model.apply(params, x))
    metric = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    diagonal = lambda j: jnp.einsum("no...,nop,np...->...", j, metric, j) / N
    jax.tree.map(
        lambda a, j: np.testing.assert_allclose(a, diagonal(j), rtol=1e-5),
        fisher,
        jax.jacrev(model.apply)(params, x),
    )
