"""Methods with one stage of training, held to closed forms of regression and softmax: by every way to the same hypergradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Batches, Model, Stage, hypergrad, meta, objectives, recipes, solvers

N, D, CLASSES, RATE = 7, 3, 4, 0.3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, D)), RNG.integers(0, CLASSES, N)
CX, CY = RNG.normal(size=(5, D)), RNG.integers(0, CLASSES, 5)
PHI = RNG.normal(size=N)
SOFTMAX = Model(lambda key: jnp.zeros((D, CLASSES)), lambda params, x: x @ params)


def _repeat(tree, steps):
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (steps, *np.shape(a))), tree)


def _moved(made, batches, phi):
    """`phi - (phi after one outer step of plain descent, step 1)`, which is the hypergradient, and what the step told."""
    state = made.start(jax.random.key(0))._replace(phi=phi)
    after, info = jax.jit(made.algorithm.step)(state, batches, jax.random.key(1))
    return jax.tree.map(lambda a, b: np.asarray(a - b), phi, after.phi), info


def _cleaning(steps, rate=RATE, **how):
    """The hypergradient of the logits of weights."""
    made = recipes.hyper_cleaning.hyper_cleaning(SOFTMAX, N, optax.sgd(rate), optax.sgd(1.0), **how)
    batches = Batches(None, _repeat((X, Y, np.arange(N)), steps), (jnp.asarray(CX), jnp.asarray(CY)))
    return _moved(made, batches, jnp.asarray(PHI))


def _log_softmax(z):
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_cleaning_by_one_step_is_how_well_an_examples_gradient_agrees_with_the_clean_ones():
    found, info = _cleaning(1)
    v = 1 / (1 + np.exp(-PHI))
    pull = np.eye(CLASSES)[Y] - 1 / CLASSES  # minus the gradient of each loss in its logits, at zero parameters
    outer = np.stack([np.outer(x, p) for x, p in zip(X, pull, strict=True)])  # [N, D, CLASSES]
    W = RATE * np.mean((v / v.mean())[:, None, None] * outer, axis=0)
    log_p = _log_softmax(CX @ W)
    np.testing.assert_allclose(info.validation_loss, -log_p[np.arange(5), CY].mean(), rtol=1e-12)
    dW = CX.T @ (np.exp(log_p) - np.eye(CLASSES)[CY]) / 5
    by_weight = RATE / N * np.einsum("nij,ij->n", outer, dW)
    by_value = (by_weight - by_weight @ v / v.sum()) / v.mean()
    np.testing.assert_allclose(found, by_value * v * (1 - v), rtol=1e-8)


def test_cleaning_forwards_is_cleaning_backwards_and_at_rest_it_is_the_implicit_function_theorem():
    reverse, _ = _cleaning(30, l2=0.1)
    np.testing.assert_allclose(_cleaning(30, l2=0.1, differentiate=hypergrad.forward)[0], reverse, rtol=1e-8)
    differences, _ = _cleaning(30, l2=0.1, differentiate=hypergrad.central_differences(1e-5))
    np.testing.assert_allclose(differences, reverse, rtol=1e-6, atol=1e-10)
    exact = lambda stage: hypergrad.implicit(stage, solvers.dense())
    at_rest, info = _cleaning(1500, 0.5, l2=0.1, rule=exact)
    np.testing.assert_allclose(_cleaning(1500, 0.5, l2=0.1)[0], at_rest, rtol=1e-8)
    assert info.report.solves == 1 and np.abs(at_rest).max() > 1e-4
    assert np.abs(reverse - at_rest).max() > 1e-6


LINEAR = Model(lambda key: jnp.zeros((D, 1)), lambda params, x: x @ params)
TARGET, CTARGET = RNG.normal(size=(N, 1)), RNG.normal(size=(5, 1))
START, MOST, L2 = 0.2, 1.5, 0.15


def _ridge(phi, solve):
    """The hypergradient of the penalties' phi by `implicit(solve)`, after training to rest on squared errors."""
    square = objectives.squared_error(objectives.whole(LINEAR))
    learned = objectives.with_penalties(square), meta.penalties(LINEAR.init, START, MOST)
    inner = Stage(learned[0], optax.sgd(0.2))
    rule = lambda stage: hypergrad.implicit(stage, solve)
    made = recipes.method.bilevel(LINEAR, inner, rule, square, learned[1], optax.sgd(1.0), restart=False)
    return _moved(made, Batches(_repeat((X, TARGET), 1500), None, (jnp.asarray(CX), jnp.asarray(CTARGET))), phi)


def test_a_penalty_for_every_parameter_is_ridge_and_a_longer_series_comes_nearer():
    phi = jnp.asarray(RNG.normal(size=(D, 1)))
    c = MOST / (1 + np.exp(-phi) * (MOST - START) / START)  # sigmoid(phi + logit(START / MOST))
    H = 2 * X.T @ X / N + np.diag(c[:, 0])
    w = np.linalg.solve(H, 2 * X.T @ TARGET / N)
    v = 2 * CX.T @ (CX @ w - CTARGET) / 5
    exact = -np.linalg.solve(H, v) * w * c * (1 - c / MOST)
    found, info = _ridge(phi, solvers.dense())
    np.testing.assert_allclose(found, exact, rtol=1e-8)
    assert info.stationarity_gap < 1e-10 and info.report.solves == 1
    eigenvalues = np.linalg.eigvalsh(H)
    step = 1 / eigenvalues[-1]
    terms = (0, 20)
    series = [np.eye(D) * step]
    for _ in range(max(terms)):
        series.append(series[0] + (np.eye(D) - step * H) @ series[-1])
    errors = []
    for k in terms:
        found, info = _ridge(phi, solvers.neumann(k, step))
        np.testing.assert_allclose(found, -(series[k] @ v) * w * c * (1 - c / MOST), rtol=1e-8)
        errors.append(np.linalg.norm(series[k] @ v - np.linalg.solve(H, v)) / np.linalg.norm(np.linalg.solve(H, v)))
        assert errors[-1] <= (eigenvalues[-1] / eigenvalues[0]) * (1 - step * eigenvalues[0]) ** (k + 1)
        assert info.report.contraction < 1 if k else jnp.isnan(info.report.contraction)
    assert errors[1] < errors[0]
    assert _ridge(phi, solvers.neumann(20, 2.5 * step))[1].report.contraction > 1  # and says so


def test_one_penalty_for_all_moves_by_the_sum():
    params = {"w": jnp.asarray(X), "b": jnp.asarray(PHI)}
    objective = objectives.with_penalties(lambda params, context, extra, batch, key: (0.0, extra))
    value = lambda c: objective(params, c, None, None, None)[0]
    assert float(value(3.0)) == pytest.approx(1.5 * (np.sum(X**2) + np.sum(PHI**2)), rel=1e-12)
    mixed = {"w": jnp.asarray(X), "b": 2.0}
    assert float(value(mixed)) == pytest.approx(0.5 * (np.sum(X**3) + 2 * np.sum(PHI**2)), rel=1e-12)
    for wrong, message in ((0.0, "start=0.0 must be above 0"), (1.0, "start=1.0 must be .*below 1")):
        with pytest.raises(ValueError, match=message):
            meta.penalties(LINEAR.init, wrong)


@pytest.mark.parametrize("what", ["distilled_data", "augmentation"])
def test_learned_examples_and_views_at_rest_are_those_of_unrolled_training(what):
    """Implicit differentiation at rest is the derivative of the whole training, which is that of finite differences."""
    y = np.arange(CLASSES)
    network = Model(
        lambda key: 0.3 * jax.random.normal(key, (2 * D, D)), lambda params, inputs: jnp.tanh(inputs @ params)
    )
    learned = {
        "distilled_data": lambda: recipes.ift_hyperparameters.distilled_data(SOFTMAX, (D,), y, L2),
        "augmentation": lambda: recipes.ift_hyperparameters.augmentation(SOFTMAX, network, L2),
    }[what]()
    steps, one_draw = 400, jax.random.key(5)
    # Views of one draw: with a draw a step, training comes to rest at no point.
    same = lambda params, context, extra, batch, key: learned[0](params, context, extra, batch, one_draw)
    data = (X, Y) if what == "augmentation" else np.zeros(1)
    batches = Batches(_repeat(data, steps), None, (jnp.asarray(CX), jnp.asarray(CY)))
    phi = learned[1].init(jax.random.key(3))

    def found(rule, **how):
        made = recipes.ift_hyperparameters.ift_hyperparameters(
            SOFTMAX, (same, learned[1]), optax.sgd(0.5), optax.sgd(1.0), rule, **how
        )
        return _moved(made, batches, phi)[0]

    exact = found(lambda stage: hypergrad.implicit(stage, solvers.dense()))
    np.testing.assert_allclose(found(hypergrad.unroll), exact, rtol=1e-7, atol=1e-10)
    assert np.abs(exact).max() > 1e-4
    if what == "distilled_data":
        differences = found(hypergrad.unroll, differentiate=hypergrad.central_differences(1e-5))
        np.testing.assert_allclose(differences, exact, rtol=1e-5, atol=1e-9)


TASKS, FEATURES = 2, 2
PX, PY = RNG.normal(size=(TASKS, 6, D)), RNG.normal(size=(TASKS, 6, 1))
QX, QY = RNG.normal(size=(TASKS, 4, D)), RNG.normal(size=(TASKS, 4, 1))
ENCODER = Model(lambda key: jnp.zeros((D, FEATURES)), lambda params, x: x @ params)
HEAD = Model(lambda key: jnp.zeros((FEATURES, 1)), lambda params, x: x @ params)
P = np.linalg.qr(RNG.normal(size=(D, FEATURES)))[0]


def _representation(steps, rule=hypergrad.unroll, **how):
    """The hypergradient of a linear encoder under linear heads, on squared errors."""
    make = recipes.hyper_representation.hyper_representation
    made = make(ENCODER, HEAD, optax.sgd(0.1), optax.sgd(1.0), rule, objectives.squared_error, **how)
    batches = Batches(None, _repeat((PX, PY), steps), (jnp.asarray(QX), jnp.asarray(QY)))
    return _moved(made, batches, jnp.asarray(P))


def test_a_representation_under_heads_of_one_step_is_its_closed_form_and_half_of_it_is_direct():
    """The head is `r P' X'y`, r = 2 rate / B, so the prediction is `r Q P P' X'y`: A P by Q's P, A' P by way of the head."""
    r, found = 2 * 0.1 / 6, _representation(1)
    direct, indirect, losses = [], [], []
    for x, y, q, t in zip(PX, PY, QX, QY, strict=True):
        error = r * q @ P @ P.T @ x.T @ y - t
        A = 2 / 4 * q.T @ error @ (x.T @ y).T
        direct.append(r * A @ P)
        indirect.append(r * A.T @ P)
        losses.append(np.mean(error**2))
    np.testing.assert_allclose(found[0], np.mean(direct, 0) + np.mean(indirect, 0), rtol=1e-10)
    np.testing.assert_allclose(found[1].validation_loss, np.mean(losses), rtol=1e-12)
    np.testing.assert_allclose(_representation(1, hypergrad.detached)[0], np.mean(direct, 0), rtol=1e-10)


def test_a_representation_forwards_is_the_same_and_at_rest_implicit():
    reverse, info = _representation(600)
    assert info.finetune.loss.shape == (600, TASKS)
    np.testing.assert_allclose(_representation(600, differentiate=hypergrad.forward)[0], reverse, rtol=1e-8)
    exact, info = _representation(600, lambda stage: hypergrad.implicit(stage, solvers.dense()))
    np.testing.assert_allclose(exact, reverse, rtol=1e-7)
    assert info.report.solves == 1 and info.report.residual < 1e-12
