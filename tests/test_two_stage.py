"""The whole procedure of a small network against central differences with common random numbers (float64)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metapt import hypergrad, meta, models, objectives, solvers, stages
from metapt.types import Model, Stage

TASKS, CLASSES, FEATURES = 5, 3, 4


def _network():
    key = jax.random.key(1)
    layer_1, layer_2 = (
        models.linear(6, 7),
        models.linear(7, FEATURES),
    )  # tanh: ReLU has kinks, a linear output a rotation that nothing fixes
    encoder = Model(
        init=lambda key: (layer_1.init(key), layer_2.init(key)),
        apply=lambda params, x: jnp.tanh(layer_2.apply(params[1], jnp.tanh(layer_1.apply(params[0], x)))),
    )
    pretrain_model = models.with_head(encoder, models.linear(FEATURES, TASKS))
    finetune_model = models.with_head(encoder, models.linear(FEATURES, CLASSES))
    x = jax.random.normal(key, (24, 6))
    tasks = (jax.random.normal(jax.random.key(2), (24, TASKS)) > 0).astype(float)
    y = jax.random.randint(jax.random.key(3), (24,), 0, CLASSES)
    return pretrain_model, finetune_model, (x, tasks), (x[:12], y[:12]), (x[12:], y[12:])


def _float64(params):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def _repeat(batch, steps):
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), batch)


def _meta_loss(pretrain_rule, optimizer, pretrain_steps, ridge=0.0, pretrained=None):
    pretrain_model, finetune_model, pool, train, validation = _network()
    weighted = objectives.weighted_tasks(objectives.whole(pretrain_model))

    def objective(params, context, extra, batch, key):
        loss, extra = weighted(params, context, extra, batch, key)
        return loss + 0.5 * ridge * optax.tree.norm(params, squared=True), extra

    pre = Stage(objective, optimizer)
    fine = Stage(objectives.cross_entropy(objectives.whole(finetune_model)), optax.adam(0.05, eps_root=1e-8))
    pre_fit, fine_fit = pretrain_rule(pre), hypergrad.unroll(fine)
    constrain = meta.sigmoid_weights(TASKS).constrain
    pre_state = pretrained or stages.start(pre, _float64(pretrain_model.init(jax.random.key(4))))
    fine_state = stages.start(fine, _float64(finetune_model.init(jax.random.key(5))))

    def meta_loss(phi):
        end, info = pre_fit(pre_state, constrain(phi), _repeat(pool, pretrain_steps), jax.random.key(6))
        start, context = stages.transfer_encoder(end, fine_state, None)
        tuned, _ = fine_fit(start, context, _repeat(train, 4), jax.random.key(7))
        return fine.objective(tuned.params, context, None, validation, jax.random.key(8))[0], (end, info)

    return meta_loss


def _central_differences(f, x, eps):
    steps = eps * np.eye(len(x))
    values, _ = jax.jit(jax.vmap(f))(np.concatenate([x + steps, x - steps]))
    return (values[: len(x)] - values[len(x) :]) / (2 * eps)


PHI = np.array([0.2, -0.4, 0.1, 0.3, -0.1])


@pytest.mark.parametrize("optimizer", [optax.adamw(0.02, eps_root=1e-8), optax.sgd(0.1, momentum=0.9, nesterov=True)])
def test_unrolling_both_stages_is_the_derivative_of_the_procedure(optimizer):
    f = _meta_loss(hypergrad.unroll, optimizer, pretrain_steps=11)
    gradient, _ = jax.jit(jax.grad(f, has_aux=True))(PHI)
    np.testing.assert_allclose(gradient, _central_differences(f, PHI, 1e-5), rtol=1e-5, atol=1e-9)


RESTING = {"optimizer": optax.sgd(0.5, momentum=0.9), "ridge": 0.01}


@pytest.mark.slow
def test_the_implicit_rule_is_the_derivative_of_the_procedure_and_its_bias_falls_with_terms_and_with_training():
    long_run = _meta_loss(hypergrad.implicit, pretrain_steps=20_000, **RESTING)
    differences = _central_differences(long_run, PHI, 1e-4)
    _, (rest, info) = jax.jit(long_run)(PHI)
    assert info.grad_norm[-1] < 1e-10

    def found(solve, steps=1, **start):
        f = _meta_loss(lambda stage: hypergrad.implicit(stage, solve), pretrain_steps=steps, **RESTING, **start)
        return jax.jit(jax.grad(f, has_aux=True))(PHI)[0]

    exact = found(solvers.dense(), pretrained=rest)
    np.testing.assert_allclose(exact, differences, rtol=1e-5)
    np.testing.assert_allclose(found(solvers.cg(300, tol=1e-12), pretrained=rest), differences, rtol=1e-5)

    error = lambda gradient: float(jnp.linalg.norm(gradient - exact) / jnp.linalg.norm(exact))
    by_terms = [error(found(solvers.neumann(terms), pretrained=rest)) for terms in (0, 30, 300, 3000)]
    by_steps = [error(found(solvers.dense(), steps)) for steps in (300, 2000, 20_000)]
    assert by_terms == sorted(by_terms, reverse=True) and by_terms[-1] < 0.05
    assert by_steps == sorted(by_steps, reverse=True) and by_steps[-1] < 1e-10


def test_hessian_products_are_symmetric():
    pretrain_model, _, pool, _, _ = _network()
    params = _float64(pretrain_model.init(jax.random.key(4)))
    loss = lambda p: objectives.weighted_tasks(objectives.whole(pretrain_model))(p, jnp.ones(TASKS), None, pool, None)[
        0
    ]
    flat, unravel = ravel_pytree(params)
    _, hvp = jax.linearize(jax.grad(lambda p: loss(unravel(p))), flat)
    u, v = jax.random.normal(jax.random.key(9), (2, flat.size))
    np.testing.assert_allclose(u @ hvp(v), v @ hvp(u), rtol=1e-11)
